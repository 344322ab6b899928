"""Sweeps on a real Ray cluster on this machine: nodes and drivers that die lose and repeat nothing."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import yaml
from compared import epochs_in, read, tables, wait_for, wait_outcome
from helpers import command, one_line_error, tiny_backbone
from rich.console import Console

from promptvit.backbones.loading import load_backbone
from promptvit.experiments.executor import Job, LocalExecutor, Outcome, cores
from promptvit.experiments.plan import cells
from promptvit.experiments.spec import Spec
from promptvit.experiments.sweep import LOSSES, run_sweep

QUIET = Console(quiet=True)
pytestmark = [
    pytest.mark.timeout(1800),  # Ray alone takes a minute on a busy machine
    pytest.mark.skipif("PROMPTVIT_CLUSTER_TESTS" not in os.environ, reason="starts real clusters: set PROMPTVIT_CLUSTER_TESTS=1"),
]


@contextmanager
def cluster(*cpus):
    """Nodes with these many cores each; nothing of them stays."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}  # or a busy machine starves its workers
    before = descendants()
    head, *others = cpus
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": head, "include_dashboard": False})
    try:
        for count in others:
            made.add_node(num_cpus=count)
        yield made
    finally:
        own = descendants() - before
        made.shutdown()
        wait_for(lambda: not living(own))


@pytest.fixture(scope="module")
def two_nodes():
    with cluster(1, 1) as made:
        yield made


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    """24 tiny runs."""
    settings = {"shots": 2, "epochs": 1, "batch_size": 8, "augment": "none"}
    methods = {f"rate-{lr}": {"method": "linear", "settings": {"lr": lr}} for lr in (0.3, 0.03)}
    backbone = tiny_backbone(tmp_path_factory.mktemp("backbone"))
    return Spec(name="tiny", backbone=backbone, tasks=["digits"], seeds=list(range(12)), settings=settings, methods=methods)


@pytest.fixture(scope="module")
def local(spec, tmp_path_factory):
    """The folder that the local executor makes."""
    out = tmp_path_factory.mktemp("local") / "out"
    with LocalExecutor(cores(), out / "logs") as place:  # one thread each, as there
        run_sweep(spec, out, executor=place, console=QUIET)
    return out


def jobs(spec, folder, **settings):
    """All jobs of ``spec``, to be given to an executor by hand."""
    changed = spec.model_copy(update={"settings": spec.settings | settings})
    return [Job(run.hash, run.settings.model_dump()) for cell in cells(changed, folder / "runs", None) for run in cell.finals(0)]


def test_a_node_killed_in_mid_sweep(spec, local, tmp_path):
    """Its run goes to the other node, without counting as a try: there are none to spare."""
    with cluster(1, 1) as nodes:
        import ray

        from promptvit.experiments.ray_executor import RayExecutor

        (second,) = nodes.worker_nodes
        killed = set()

        class Killing(RayExecutor):
            outcomes = []

            def wait(self, seconds):
                self.outcomes += (new := super().wait(seconds))
                known = [place for place in self.places if place.job and ray.wait([place.node], timeout=0)[0]]
                if nodes.worker_nodes and len(self.outcomes) > 6 and second.node_id in [ray.get(place.node) for place in known]:
                    killed.update(descendants())
                    nodes.remove_node(second, allow_graceful=False)
                return new

        place = Killing(tmp_path / "out", address=nodes.address)
        done = run_sweep(spec, tmp_path / "out", executor=place, retries=0, console=QUIET)
        assert not ray.is_initialized()
    wait_for(lambda: not living(killed))
    lost = [outcome.job.hash for outcome in place.outcomes if outcome.lost]
    assert len(lost) == 1 and done.tries[lost[0]] == 2 and set(done.tries.values()) == {1, 2}
    assert sorted(outcome.job.hash for outcome in place.outcomes if outcome.result) == sorted(done.results) and len(done.results) == 24
    assert not done.missing() and tables(tmp_path / "out") == tables(local)


def test_the_driver_killed_and_started_again(spec, local, two_nodes, tmp_path):
    """kill -9 of the command; its actors end with it, and what was finished stays as it is."""
    path, out = tmp_path / "spec.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(spec.model_dump(exclude_none=True), sort_keys=False))
    line = [sys.executable, "-m", "promptvit", "sweep", str(path), "--out", "out", "--executor", "ray", "--address", two_nodes.address]
    where = {"cwd": tmp_path, "env": {**os.environ, "HF_HUB_OFFLINE": "1"}, "text": True}
    with subprocess.Popen(line, **where) as process:
        try:
            wait_for(lambda: len(list(out.rglob("result.json"))) > 5 or process.poll() is not None, 900)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL
    wait_for(lambda: not actors())
    before = {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    again = subprocess.run([*line, "--json"], capture_output=True, check=False, **where)
    assert again.returncode == 0 and again.stdout == (out / "summary.json").read_text(), again.stderr
    assert len(before) < 24 and {path: path.stat().st_mtime_ns for path in before} == before
    assert tables(out) == tables(local)
    assert {read(run / "environment.json")["threads"] for run in (out / "runs").iterdir()} == {1}


def test_a_process_killed_is_a_failure_of_its_run(spec, two_nodes, tmp_path):
    from promptvit.experiments.ray_executor import RayExecutor

    job = jobs(spec, tmp_path, epochs=3000)[0]
    with RayExecutor(tmp_path, address=two_nodes.address, jobs=1) as place:
        assert place.free == 1 and place.room() == 2
        place.submit(job)
        assert place.free == 0 and place.running == [job]
        wait_for(lambda: epochs_in(tmp_path) > 2)
        (actor,) = actors()
        actor.kill()
        outcome = wait_for_one(place)
        assert outcome.job == job and "its process died" in outcome.error and not outcome.lost and place.free == 1
        before = epochs_in(tmp_path)
        place.submit(job)
        wait_for(lambda: epochs_in(tmp_path) > before)
    wait_for(lambda: not actors())


def test_weights_are_loaded_once_and_shared(spec, two_nodes, tmp_path):
    import ray

    from promptvit.experiments.ray_executor import RayExecutor, share

    own = tiny_backbone(tmp_path / "backbone")
    first, *others = jobs(spec.model_copy(update={"backbone": own, "seeds": [0, 1, 2, 3]}), tmp_path / "out")
    with RayExecutor(tmp_path / "out", address=two_nodes.address) as place:
        place.submit(first)
        for path in sorted(Path(own).rglob("*")) if Path(own).is_dir() else [Path(own)]:
            path.rename(path.with_name(f"moved-{path.name}"))  # no actor has begun yet; none can load it now
        done = [wait_for_one(place)]
        for job in others:
            while not place.free:
                done += place.wait(1.0)
            place.submit(job)
        while place.running:
            done += place.wait(1.0)
        assert [outcome.error for outcome in done] == [None] * 8

        @ray.remote
        def look(references):
            """Where the largest tensor lies, a second reader's included, and a sum over all."""
            backbone, again = ray.get(references[0]), ray.get(references[0])
            tensors = [max(one.state_dict().values(), key=lambda tensor: tensor.numel()) for one in (backbone, again)]
            assert tensors[0].data_ptr() == tensors[1].data_ptr()
            lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
            (file,) = [" ".join(line[5:]) for line in lines if inside(line[0], tensors[0].data_ptr())]
            total = sum(tensor.double().sum().item() for tensor in backbone.state_dict().values())
            return file, total, backbone.fingerprint, any(p.requires_grad for p in backbone.parameters())

        def inside(span, address):
            start, end = (int(part, 16) for part in span.split("-"))
            return start <= address < end

        backbone = load_backbone("mae-tiny")
        reference = share(backbone)
        total = sum(tensor.double().sum().item() for tensor in backbone.state_dict().values())
        if sys.platform == "linux":
            for file, *facts in ray.get([look.remote([reference]) for _ in range(2)]):
                assert "plasma" in file or "/dev/shm" in file, file
                assert facts == [total, backbone.fingerprint, False]


def test_jobs_do_not_wait_for_cores_that_others_hold(spec, two_nodes, tmp_path):
    import ray

    from promptvit.experiments.ray_executor import RayExecutor

    with RayExecutor(tmp_path, address=two_nodes.address) as place:

        @ray.remote(num_cpus=1)
        class Other:
            def there(self):
                return True

        other = Other.remote()
        assert ray.get(other.there.remote())
        for job in jobs(spec, tmp_path)[:2]:
            place.submit(job)
        done = [wait_for_one(place), wait_for_one(place)]
        assert [outcome.error for outcome in done] == [None, None] and len(place.places) == 1


def test_what_a_cluster_must_have(spec, two_nodes, tmp_path):
    from promptvit.experiments.ray_executor import RayExecutor

    with pytest.raises(ValueError, match=r"no node of the Ray cluster has the 2 CPU\(s\) and 0 GPU\(s\)"), \
            RayExecutor(tmp_path, address=two_nodes.address, cpus=2):
        pass
    place = RayExecutor(tmp_path, address=two_nodes.address)
    place.mark = replace(place.mark, seconds=0)
    with place:
        place.mark.path.write_text("a folder of another machine")
        place.submit(jobs(spec, tmp_path)[0])
        with pytest.raises(ValueError, match=rf"out: node .* does not see {tmp_path}; choose a folder that all nodes share"):
            wait_for_one(place)
    assert not (tmp_path / "runs").exists() and not place.mark.path.exists()


def test_room_by_gpus():
    pytest.importorskip("ray")
    from promptvit.experiments.ray_executor import RayExecutor

    fitting = lambda gpus, **resources: RayExecutor(Path("x"), cpus=2, gpus=gpus)._fitting(resources)  # noqa: E731
    assert [fitting(0.25, CPU=32, GPU=2), fitting(0.4, CPU=32, GPU=2), fitting(1, CPU=32, GPU=2), fitting(2, CPU=32, GPU=3)] == [8, 4, 2, 1]
    assert [fitting(0.25, CPU=5, GPU=2), fitting(0, CPU=5), fitting(1, CPU=8), fitting(0)] == [2, 2, 0, 0]


def test_mistakes_are_one_line(spec, tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(spec.model_dump(exclude_none=True), sort_keys=False))
    result = command("sweep", path, "--out", tmp_path / "out", "--address", "auto")
    assert one_line_error(result) == "executor: --address, --cpus-per-run and --gpus-per-run need --executor ray"
    broken = tmp_path / "none" / "ray"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError")
    without = {"env": {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(broken.parent)}}
    line = [sys.executable, "-m", "promptvit", "sweep", str(path), "--out", str(tmp_path / "out"), "--executor", "ray"]
    result = subprocess.run(line, capture_output=True, text=True, check=False, **without)
    assert one_line_error(result) == 'executor: ray needs the package ray; install it with: pip install "promptvit[cluster]"'
    pytest.importorskip("ray")
    nobody = "127.0.0.1:1"
    for address, message in (("ray://somewhere:10001", "address: ray:// is for clients"), (nobody, f"address: no Ray cluster at {nobody}")):
        result = subprocess.run([*line, "--address", address], capture_output=True, text=True, check=False, cwd=tmp_path)
        assert one_line_error(result).startswith(message)


def test_a_run_that_always_loses_its_machine_is_given_up(spec, tmp_path):
    class Cursed:
        free, running, count = 1, [], 0

        def submit(self, job):
            self.running = [job]

        def wait(self, seconds):
            (job,), self.running = self.running, []
            self.count += 1
            return [Outcome(job, None, "its node is gone", lost=True)]

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    place = Cursed()
    done = run_sweep(spec.model_copy(update={"seeds": [0]}), tmp_path, executor=place, retries=1, only=["rate-0.3"], console=QUIET)
    assert place.count == LOSSES + 2
    assert done.missing() == ["rate-0.3 on digits, seed 0: failed: its node is gone"]


def descendants():
    """Ray's processes below this one: nodes, what they started, and their actors."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if any("/ray/" in word or word.startswith("ray::") for word in process.cmdline()):
                found.add(process)
    return found


def living(processes):
    """Those that have not ended; a zombie has."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def actors():
    """Processes of actors on our nodes, whichever driver they belong to."""
    found = []
    for process in living(descendants()):
        with suppress(psutil.NoSuchProcess, IndexError):
            if process.cmdline()[0].startswith("ray::Worker"):
                found.append(process)
    return found


def wait_for_one(place):
    (outcome,) = wait_outcome(place)
    return outcome
