"""Speed of `make_records`: records a second on one core, and beside NeuroKit2 if installed.

Run ``OMP_NUM_THREADS=1 python benchmarks/synthetic.py``. Times are processor time of this process,
the best of several rounds, so that other programs disturb them little. The time to draw a million
normal numbers is printed as a yardstick of the machine.
"""

import importlib.util
import time

import numpy as np

from ecgbook.synthetic import make_records

ROUNDS = 9
BATCH = 40


def best(task, rounds=ROUNDS) -> float:
    """Least processor time of a task in seconds."""
    times_s = []
    for _ in range(rounds):
        start = time.process_time()
        task()
        times_s.append(time.process_time() - start)
    return min(times_s)


def main() -> None:
    rng = np.random.default_rng(0)
    yardstick = best(lambda: rng.standard_normal(1_000_000))
    print(f"yardstick, a million normal numbers    {1000 * yardstick:8.2f} ms")
    ours = None
    for fs_hz, seconds, noise in ((500, 10, 1), (500, 10, 0), (100, 10, 1), (500, 60, 1)):
        per_record = best(lambda f=fs_hz, s=seconds, k=noise: make_records(BATCH, 1, f, s, noise=k))
        per_record /= BATCH
        ours = ours or per_record
        name = f"{seconds} s at {fs_hz} Hz" + ("" if noise else ", clean")
        print(f"{name:36} {1000 * per_record:10.2f} ms  {1 / per_record:7.0f} records/s")
    if importlib.util.find_spec("neurokit2") is None:
        print("NeuroKit2 is not installed: no comparison")
        return
    import neurokit2

    peer = best(
        lambda: neurokit2.ecg_simulate(10, sampling_rate=500, method="multileads", random_state=1),
        3,
    )
    print(f"NeuroKit2, sinus, 10 s at 500 Hz     {1000 * peer:10.2f} ms  {peer / ours:7.0f} x ours")


if __name__ == "__main__":
    main()
