"""`dvc repro`, several stages at once: python -m wsssbench.reproduce dvc.yaml [--jobs N]

DVC runs one stage after another, and small networks leave cores (or GPUs) idle. Here every stage
whose predecessors are done gets a `dvc repro --single-item` of its own, so that dvc.lock, cache and
results are those of DVC. Stages that are up to date are not asked for again.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from graphlib import TopologicalSorter
from itertools import takewhile
from pathlib import Path

from wsssbench.command import run_command, stop_on_sigterm
from wsssbench.errors import UserError
from wsssbench.parallel import cpus
from wsssbench.progress import clock

DVC = (sys.executable, "-m", "dvc")
NODE = re.compile(r'^"(?P<name>[^"]+)";$', re.MULTILINE)
EDGE = re.compile(r'^"(?P<before>[^"]+)" -> "(?P<after>[^"]+)";$', re.MULTILINE)
Graph = dict[str, set[str]]


def reproduce(pipeline: str | Path, jobs: int = 0) -> None:
    """Run what is not up to date of a pipeline.

    Args:
        pipeline: path of a dvc.yaml inside a DVC project, seen from its top.
        jobs: stages at once; 0: one per GPU, two without any. They share the cores
            (OMP_NUM_THREADS) and take turns with the GPUs (CUDA_VISIBLE_DEVICES).

    Raises:
        UserError: no such file, a negative number, DVC cannot read it, or a stage failed. Stages
            that ran by its side were finished; a second call goes on.
    """
    if not Path(pipeline).is_file():
        raise UserError(f"{pipeline} does not exist. Run from the repository's top.")
    if jobs < 0:
        raise UserError(f"JOBS is {jobs}; give the number of stages at once, or 0.")
    gpus = visible_gpus()
    jobs = jobs or len(gpus) or min(2, cpus())
    if jobs == 1:
        if subprocess.run([*DVC, "repro", str(pipeline)]).returncode:
            raise UserError("A stage failed, see above. Run the same command to go on from there.")
        return
    graph = read_graph(_ask("dag", "--dot", pipeline))
    changed = affected(graph, json.loads(_ask("status", "--json", pipeline) or "{}"))
    if not changed:
        print(f"{pipeline}: everything is up to date.")
        return
    _run_all({stage: graph[stage] & changed for stage in graph if stage in changed}, jobs, gpus)


def read_graph(dot: str) -> Graph:
    """`dvc dag --dot` as {stage: the stages it waits for}."""
    graph: Graph = {match["name"]: set() for match in NODE.finditer(dot)}
    for match in EDGE.finditer(dot):
        graph[match["after"]].add(match["before"])
    return graph


def affected(graph: Graph, changed: Iterable[str]) -> set[str]:
    """The changed stages and all that come after them."""
    found = set(changed) & graph.keys()
    for stage in TopologicalSorter(graph).static_order():
        if graph[stage] & found:
            found.add(stage)
    return found


def environment(base: Mapping[str, str], jobs: int, gpu: str | None) -> dict[str, str]:
    """`base` with a job's share of the cores, unless it says how many, and its GPU."""
    own = {"OMP_NUM_THREADS": str(max(1, cpus() // jobs)), **base}
    return own if gpu is None else {**own, "CUDA_VISIBLE_DEVICES": gpu}


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES names (none from a -1 on), else the numbers of all NVIDIA GPUs."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        names = (name.strip() for name in chosen.split(","))
        return list(takewhile(lambda name: name and name != "-1", names))
    try:  # torch would take seconds and claim memory
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(number) for number, line in enumerate(listed.stdout.splitlines()) if line]


def longest_first(graph: Graph) -> list[str]:
    """The stages by how many others wait for each other behind them, the longest chain first."""
    chain = dict.fromkeys(graph, 0)
    for stage in reversed([*TopologicalSorter(graph).static_order()]):
        for before in graph[stage]:
            chain[before] = max(chain[before], chain[stage] + 1)
    return sorted(graph, key=lambda stage: -chain[stage])


def _run_all(graph: Graph, jobs: int, gpus: Sequence[str]) -> None:
    """Each stage once its predecessors are done; after a failure no new one."""
    rank = {stage: place for place, stage in enumerate(longest_first(graph))}
    order, ready, failed, done = TopologicalSorter(graph), set(), [], 0
    running: dict[Future, tuple[str, int]] = {}
    processes: dict[str, subprocess.Popen] = {}
    order.prepare()
    with ThreadPoolExecutor(jobs) as pool:
        try:
            while order.is_active():
                ready.update(order.get_ready())
                free = set(range(jobs)) - {slot for _, slot in running.values()}
                while ready and free and not failed:
                    stage, slot = min(ready, key=rank.get), free.pop()
                    ready.remove(stage)
                    env = environment(os.environ, jobs, gpus[slot % len(gpus)] if gpus else None)
                    running[pool.submit(_run, stage, env, processes)] = stage, slot
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    (stage, _), (status, seconds) = running.pop(future), future.result()
                    done += 1
                    said = f"failed after {clock(seconds)}" if status else f"{clock(seconds)} min"
                    print(f"[{done}/{len(graph)}] {stage}: {said}", flush=True)
                    if status:
                        failed.append(stage)
                    else:
                        order.done(stage)
        except BaseException:
            # As Ctrl-C in a terminal would; what a script runs in the background is deaf to that.
            deaf = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            for process in list(processes.values()):
                os.killpg(process.pid, signal.SIGTERM if deaf else signal.SIGINT)
            raise
    if failed:
        raise UserError(
            f"Failed: {', '.join(failed)}; see the lines that begin with the name. "
            "Run the same command to go on from there."
        )


def _run(
    stage: str, env: Mapping[str, str], processes: dict[str, subprocess.Popen]
) -> tuple[int, float]:
    """One stage by DVC; its lines are printed with its name. Returns exit status and seconds."""
    short, started = stage.rpartition(":")[2], time.monotonic()
    command = [*DVC, "--wait-for-lock", "repro", "--single-item", stage]
    with subprocess.Popen(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        processes[stage] = process
        for line in process.stdout:
            if line.strip():
                print(f"{short} | {line.rstrip()}", flush=True)
    del processes[stage]
    return process.returncode, time.monotonic() - started


def _ask(command: str, *arguments: str | Path) -> str:
    """What a command of DVC prints."""
    told = subprocess.run([*DVC, command, *map(str, arguments)], capture_output=True, text=True)
    if told.returncode:
        raise UserError(f"dvc {command} failed:\n{told.stderr.strip()}")
    return told.stdout


def main() -> None:
    """Entry point of `python -m wsssbench.reproduce`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pipeline", help="a dvc.yaml")
    parser.add_argument("--jobs", type=int, default=0, help="stages at once; default: 1 per GPU, 2")
    given = parser.parse_args()
    stop_on_sigterm()
    run_command(lambda: reproduce(given.pipeline, given.jobs))


if __name__ == "__main__":
    main()
