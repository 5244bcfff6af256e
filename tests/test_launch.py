"""What starts a search on a cluster: its syntax, and that its words are ones that the command line knows."""

import shlex
import shutil
import subprocess
from importlib.resources import files

import pytest
import typer.main
import yaml
from lpanas.search.cli import app

FOLDER = files("lpanas.search") / "launch"


def check_words(command: str) -> None:
    """Raises click's UsageError when the command line would not take the words after `lpanas`."""
    words = shlex.split(command)
    words = words[words.index("lpanas") + 1 :]
    found = typer.main.get_command(app).commands[words[0]].make_context("lpanas", words[1:])
    assert found.params["executor"] == "ray"


def test_the_slurm_script_is_bash_and_searches_with_ray():
    script = FOLDER / "slurm.sh"
    subprocess.run([shutil.which("bash"), "-n", str(script)], check=True)
    *_, last = script.read_text().replace("\\\n", " ").replace('"$@"', "space.yaml --out study").strip().splitlines()
    assert shlex.split(last)[:3] == ["srun", "ray", "symmetric-run"]
    check_words(last)


def test_the_kubernetes_job_is_a_rayjob_that_searches_with_ray_on_workers_with_gpus():
    job = yaml.safe_load((FOLDER / "kuberay.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    check_words(job["spec"]["entrypoint"])
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_words_that_the_command_line_does_not_know_are_found():
    with pytest.raises(Exception, match="--exekutor"):
        check_words("lpanas search space.yaml --exekutor ray")
