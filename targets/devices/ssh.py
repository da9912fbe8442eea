"""A board reached over ssh: the same agent, started there; files kept there by their sha256."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping

from targets import depot, names
from targets.base import Target, TargetError
from targets.board.options import UNHELD, Board
from targets.devices import _address, _loop
from targets.devices._address import Address
from targets.devices._agents import THREADS, AgentDevice
from targets.devices._remote import RemoteProcess, Start
from targets.devices._store import BoardStore, Parcel
from targets.devices.base import SILENT, Agent, Tell

LEASE_S = 60.0


@dataclass(frozen=True)
class Ssh(AgentDevice):
    """A board with sshd and Python ≥ 3.8, numpy and a runtime. `timeout_s` limits each order to an agent."""

    address: Address
    name: str = ""
    timeout_s: float = _address.TIMEOUT_S
    lease_s: float = LEASE_S  # an agent that has heard nothing for so long ends
    tell: Tell = SILENT
    board: Board = UNHELD
    _store: BoardStore = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.address.url)
        object.__setattr__(self, "_store", BoardStore(self.name, self.address, self.tell))

    @classmethod
    def at(cls, where: str, options: Mapping[str, str], name: str = "", tell: Tell = SILENT) -> Ssh:
        """The board at `ssh://[user@]host[:port][?…]`; `options` are those of a devices.yaml."""
        address = _address.with_options(_address.parse(where), options)
        return cls(address, name, address.timeout_s, tell=tell)

    @property
    def where(self) -> str:
        """Its URL, without options."""
        return self.address.url

    @contextmanager
    def agent(self, target: Target) -> Iterator[Agent]:
        """Start an agent there, in a session of its own."""
        environment = dict.fromkeys(THREADS, str(getattr(target, "threads", 1)))
        start = Start(self._store.root(), self._store.agent(), environment, self.lease_s)
        process = RemoteProcess(self._store.link, start)
        _loop.run(process.open())
        try:
            if self._store.tidy():
                _loop.run(process.call("sweep", self.timeout_s, {}))
            yield _Handle(process, self._store)
        finally:
            _loop.run(process.close())

    def put(self, path: Path) -> str:
        """Send what is not there yet; return where agents will find it."""
        return self._store.put(path)

    @contextmanager
    def collected(self, agent: Agent, path: Path) -> Iterator[str]:
        """Have the agent make a place to write to, and fetch from there what it wrote."""
        room = agent.call("room", self.timeout_s, file="" if path.is_dir() else names.relative(path.name))
        there = names.absolute(room)
        yield there
        self._store.fetch(there, agent.call("digests", self.timeout_s, path=there), path)
        agent.call("clear", self.timeout_s, path=there)

    def close(self) -> None:
        """End the connections; the next use makes new ones."""
        self._store.close()


@dataclass(frozen=True)
class _Handle:
    """An agent that arranges and verifies files before an order that names them."""

    process: RemoteProcess
    store: BoardStore
    _arranged: Dict[str, Parcel] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        """Process id there."""
        return self.process.pid

    def call(self, do: str, timeout_s: float, **arguments: Any) -> Any:
        """Give an order and return what it yields. Raises TargetError."""
        for value in arguments.values():
            parcel = self.store.parcels.get(value) if isinstance(value, str) else None
            if parcel is not None and value not in self._arranged:
                self._arrange(parcel, timeout_s)
                self._arranged[value] = parcel
        return _loop.run(self.process.call(do, timeout_s, arguments))

    def tell(self, do: str, **arguments: Any) -> None:
        """Give an order and go on. Raises TargetError where nobody is there to take it."""
        _loop.run(self.process.tell(do, arguments))

    def _arrange(self, parcel: Parcel, timeout_s: float) -> None:
        order = self.process.call("arrange", timeout_s, {"files": parcel.digests})
        try:
            _loop.run(order)
        except TargetError as error:
            if depot.DAMAGED not in str(error):
                raise
            self.store.send(parcel)  # lost power there, perhaps, after it was sent: once more
            _loop.run(self.process.call("arrange", timeout_s, {"files": parcel.digests}))
