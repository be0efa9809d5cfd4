"""One literal example of every message; ``golden/<name>.hex`` holds its bytes still.

After a deliberate change of the protocol: ``PYTHONPATH=client_hook python -m tests.wire.examples`` writes the files anew.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gradhelm import wire

GOLDEN = Path(__file__).parent / "golden"
RUN = "01912d68-783e-7a03-8467-5661c1243ad4"

_values = np.array([[0.5, -2.0], [np.inf, wire.MISSING]], np.float32)
_steps = np.array([41, 42], np.uint64)
_times = np.array([1.7e9, 1.7e9 + 0.25])

FROM_TRAINER: dict[str, wire.ToServer] = {
    "hello": wire.Hello(
        run=RUN,
        segment="00ff00ff00ff00ff",
        name="char-lm",
        project="default",
        coded=(
            wire.Coded(
                "GlobalNorm",
                {"max_norm": 25.0},
                "max_norm",
                {"max_norm": wire.Limit(0.25, 2500.0)},
                optimizer="SGD",
            ),
        ),
        limits=wire.Limits(factor=10.0, every_steps=5),
        config='{"lr": 20}',
        tags=("demo",),
        started=1.7e9,
        resume=False,
        version=0,
        host="trainer-1",
        hook="0.1.0",
    ),
    "hello_read_only": wire.Hello(
        run=RUN,
        segment="0123456789abcdef",
        name="n",
        project="p",
        coded=(wire.Coded("Observe", {}),),
        limits=wire.Limits(why_not="read-only"),
        resume=True,
        version=3,
    ),
    "hello_of_two_optimizers": wire.Hello(
        run=RUN,
        segment="0123456789abcdef",
        name="n",
        project="p",
        coded=(
            wire.Coded("GlobalNorm", {"max_norm": 1.0}, "max_norm", match="encoder.*"),
            wire.Coded("Value", {"clip_value": 0.5}, "clip_value", stream="disc"),
        ),
        limits=wire.Limits(why_not="read-only"),
        streams=("gen", "disc"),
    ),
    "replay": wire.Replay(
        wire.Hello(
            run=RUN,
            segment="0123456789abcdef",
            name="n",
            project="p",
            coded=(wire.Coded("Observe", {}),),
            limits=wire.Limits(why_not="the run is offline: nothing reaches it"),
            started=1.7e9,
            resume=True,
        )
    ),
    "columns_of_a_stream": wire.Columns(1, 0, (wire.Column("disc/global_norm", "scalar"),), "disc"),
    "applied_in_a_stream": wire.Applied(
        3, 205, (wire.Rule({"max_norm": 1.0}), wire.Rule({"clip_value": 0.4}, None, "disc")), "disc"
    ),
    "columns": wire.Columns(
        0,
        0,
        (
            wire.Column("global_norm", "scalar"),
            wire.Column("norm/lstm.weight_ih_l0", "norm", (512, 128), "float32"),
            wire.Column("loss", "log"),
        ),
    ),
    "frame": wire.pack_frame(7, 0, 2, _steps, _times, _values),
    "gap": wire.Gap(8, 43, 99, 57, "outbox full"),
    "heartbeat": wire.Heartbeat(42, {"handoff_p50_us": 3.5, "ring_fill": 0.0}),
    "heartbeat_before_the_first_step": wire.Heartbeat(None, {}),
    "applied": wire.Applied(2, 41, (wire.Rule({"max_norm": 0.25}),)),
    "applied_for_a_time": wire.Applied(3, 50, (wire.Rule({"max_norm": 0.5}),), back=2),
    "reverted": wire.Reverted(
        3, 60, "its time was over at step 60", (wire.Rule({"max_norm": 0.25}),)
    ),
    "delivered": wire.Delivered(2),
    "rejected": wire.Rejected(3, 44, "max_norm 0.1 is outside 0.25..2500.0"),
    "finish": wire.Finish("finished", 5999),
    "finish_of_a_lost_process": wire.Finish("failed", None, "the process was lost", lost=True),
    "finish_failed": wire.Finish("failed", None, "ValueError: no data"),
}

FROM_SERVER: dict[str, wire.ToTrainer] = {
    "welcome": wire.Welcome(6, 32, 1000),
    "ack": wire.Ack(7),
    "refused": wire.Refused("wrong CRC: the frame was damaged on its way", 7),
    "refused_without_a_number": wire.Refused("unreadable message"),
    "resend": wire.Resend(7),
    "pace": wire.Pace(100),
    "change": wire.Change(
        2, (wire.Rule({"max_norm": 0.25}), wire.Rule({"clip_value": 1.0}, "lstm.*"))
    ),
    "change_with_conditions": wire.Change(
        3,
        (wire.Rule({"max_norm": 0.5}),),
        not_before=50,
        ttl_steps=10,
        revert_if=wire.RevertIf(5, nonfinite=True, clip_fraction=(0.05, 0.5)),
        lr_factor=0.5,
    ),
    "change_after_a_restart": wire.Change(
        3,
        (wire.Rule({"max_norm": 0.5}),),
        ttl_steps=10,
        until=60,
        back=wire.Document(2, (wire.Rule({"max_norm": 0.25}),)),
    ),
    "change_that_stops": wire.Change(4, (wire.Rule({"max_norm": 0.25}),), stop=True),
    "finished": wire.Finished(),
}


def page(data: bytes) -> str:
    """``data`` as hex, sixteen bytes a line, with what is readable beside them."""
    lines = []
    for first in range(0, len(data), 16):
        part = data[first : first + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{part.hex(' '):<47}  {text}".rstrip())
    return "\n".join(lines) + "\n"


def unpage(text: str) -> bytes:
    """The bytes of a page."""
    return bytes.fromhex("".join(line[:47] for line in text.splitlines()))


def main() -> None:
    for name, message in {**FROM_TRAINER, **FROM_SERVER}.items():
        (GOLDEN / f"{name}.hex").write_text(page(wire.encode(message)))


if __name__ == "__main__":
    main()
