"""Products of two activations: matrix products, einsum and attention. All are written as sums over letters."""

from collections.abc import Sequence

from pipeline.pruning.channels import Ids
from pipeline.pruning.rules.base import Call, Flow, Labels, Shape, Value, makes, reads, rule, unknown


def contract(flow: Flow, shape: Shape, operands: Sequence[tuple[Labels, str]], out: str) -> Labels:
    """Unite the dimensions of one letter, except where an operand is broadcast along it.

    A letter that the result lacks is summed over; a letter of every operand and of the result is a batch of
    products, which in attention are its heads.
    """
    sizes = {letter: n for t, letters in operands for n, letter in zip(t.shape, letters, strict=True) if n > 1}
    found: dict[str, Ids | None] = {}
    for tensor, letters in operands:
        for letter, n, ids in zip(letters, tensor.shape, tensor.dims, strict=True):
            if n == sizes.get(letter):
                found[letter] = flow.unite(found[letter], ids) if letter in found else ids
        if tensor.source:  # a parameter outside modules: what is summed over it reads, the rest it makes
            for letter, ids in zip(letters, tensor.dims, strict=True):
                (makes if letter in out else reads)(flow, ids)
    for letter in out:
        if all(letter in letters for _, letters in operands):
            flow.mark(found.get(letter), "head")
    return Labels(shape, tuple(found.get(letter) for letter in out))


def _letters(rank: int, last: str) -> str:
    """Name the dimensions of one of two operands that are aligned from the right."""
    batch = "abcdefghij"[: rank - len(last)]
    return batch[::-1] + last


@rule("matmul", "bmm", "mm", "mv", "dot")
def matmul(flow: Flow, call: Call) -> Labels:
    """Multiply the last two dimensions of each; those before are batches."""
    a, b = list(call.tensors())
    left = _letters(len(a.shape), "nk" if len(a.shape) > 1 else "k")
    right = _letters(len(b.shape), "km" if len(b.shape) > 1 else "k")
    longest = max(left.rstrip("nk"), right.rstrip("km"), key=len)
    out = longest + ("n" if len(a.shape) > 1 else "") + ("m" if len(b.shape) > 1 else "")
    return contract(flow, call.shape, [(a, left), (b, right)], out)


@rule("addmm", "baddbmm")
def addmm(flow: Flow, call: Call) -> Labels:
    """Multiply two matrices and add a third."""
    bias = call["self"]
    a, b = [t for t in call.tensors() if t is not bias]
    letters = [(a, _letters(len(a.shape), "nk")), (b, _letters(len(b.shape), "km"))]
    product = contract(flow, call.shape, letters, _letters(len(a.shape), "nm"))
    dims = list(product.dims)
    for d in range(1, len(bias.shape) + 1):
        if bias.shape[-d] == product.shape[-d]:
            dims[-d] = flow.unite(dims[-d], bias.dims[-d])
    return Labels(call.shape, tuple(dims))


@rule("einsum")
def einsum(flow: Flow, call: Call) -> Value:
    """Unite the dimensions of one letter."""
    equation = call["equation"].replace(" ", "")
    if "." in equation or "->" not in equation:
        return unknown(flow, call)
    inputs, out = equation.split("->")
    operands = list(zip(call["tensors"], inputs.split(","), strict=True))
    if any(len(set(letters)) < len(letters) for letters in (out, *inputs.split(","))):
        return unknown(flow, call)  # a diagonal
    return contract(flow, call.shape, operands, out)


@rule("scaled_dot_product_attention")
def attention(flow: Flow, call: Call) -> Value:
    """softmax(q kᵀ · scale + mask) v. The default scale depends on the width that q has, which then must stay."""
    q, k, v, mask = call["query"], call["key"], call["value"], call.get("attn_mask")
    if q.shape[:-2] != k.shape[:-2] or k.shape[:-2] != v.shape[:-2]:
        return unknown(flow, call)
    if call.get("scale") is None:
        flow.keep(q.dims[-1], k.dims[-1])
    shape, rank = (*q.shape[:-1], k.shape[-2]), len(q.shape)
    scores = contract(flow, shape, [(q, _letters(rank, "nk")), (k, _letters(rank, "mk"))], _letters(rank, "nm"))
    dims = list(scores.dims)
    for d in range(1, len(mask.shape) + 1) if mask is not None else ():
        if mask.shape[-d] == shape[-d]:
            dims[-d] = flow.unite(dims[-d], mask.dims[-d])
    weights = Labels(shape, tuple(dims))
    return contract(
        flow, call.shape, [(weights, _letters(rank, "nm")), (v, _letters(rank, "mv"))], _letters(rank, "nv")
    )
