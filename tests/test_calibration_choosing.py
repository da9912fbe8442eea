import numpy as np
import onnx
import pytest
from calibration_nets import FUSING, calibrated, model, node, resnet, run, samples, sqnr_db
from onnx import helper, numpy_helper

from calibration.adaround import Annealing
from calibration.choosing import carried_over, choose, equalized
from calibration.errors import CalibrationError
from calibration.graph import digest
from calibration.layers import layers
from calibration.placement import place


def test_methods_go_together_and_are_written_down():
    made = resnet()
    batches = [{"x": samples(8)}]
    told: list[str] = []
    chosen = choose(made, lambda: batches, "mse", "empirical", Annealing(20), lambda *of: told.append(of[0]))
    weights = chosen.weights
    assert weights.methods == {"scale": "mse", "rounding": "adaround", "bias": "empirical"}
    assert (len(told), len(weights.biases)) == (7, 7)
    assert all(weight.integers is not None for weight in weights.tensors.values())
    assert chosen.skipped == {"adaround": {}, "bias": {}}
    placed = place(made, calibrated(made, 8), FUSING, weights=weights)
    assert placed.nearest == {}
    assert sqnr_db(run(made, samples(8)), run(placed.model, samples(8))) > 25
    analytic = choose(made, lambda: batches, bias="analytic").weights
    assert analytic.biases.keys() == weights.biases.keys()
    assert choose(made, lambda: batches).weights.biases == {}
    with pytest.raises(CalibrationError, match="bias correction 'both': have none, analytic, empirical"):
        choose(made, lambda: batches, bias="both")


def test_weights_in_constant_nodes_are_chosen_too():
    w = np.random.default_rng(0).normal(0, 1, (4, 3, 1, 1)).astype(np.float32)
    constant = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(w))
    made = model([constant, node("Conv", ["x", "w"], "y")], {}, (1, 3, 4, 4))
    chosen = choose(made, lambda: [{"x": samples(4, (3, 4, 4))}], bias="empirical").weights
    assert chosen.tensors.keys() == {"w"}
    placed = place(made, calibrated(made), FUSING, weights=chosen)
    assert placed.nearest == {}
    assert any("corrected" in t.name for t in placed.model.graph.initializer)


def test_an_equalized_network_computes_the_same():
    made = resnet()
    x = samples(8)
    done = equalized(made, lambda: [{"x": x}])
    assert done.pairs == ("Conv_a1 → Conv_a2", "Conv_b1 → Conv_b2")
    assert digest(done.model) != digest(made)
    np.testing.assert_allclose(run(done.model, x), run(made, x), rtol=1e-3, atol=1e-4)
    assert "zeros pad" in done.skipped["Conv_a1 → Conv_a2, bias"]


def test_a_new_export_takes_over_the_values():
    made, other = resnet(), resnet(batch=4)
    done = equalized(made, lambda: [{"x": samples(4)}]).model
    taken = carried_over(other, done)
    assert taken.graph.input == other.graph.input
    for ours, theirs in zip(layers(taken), layers(done), strict=True):
        np.testing.assert_array_equal(ours.weight, theirs.weight)
        np.testing.assert_array_equal(ours.bias, theirs.bias)
    with pytest.raises(CalibrationError, match="exported anew has no layer that computes 'stem' as the first has"):
        carried_over(resnet(width=8), done)
    onnx.checker.check_model(taken, full_check=True)
