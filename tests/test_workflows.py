"""Workflows, templates and the container run elsewhere; what can be seen here."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = {p.stem: p for p in sorted(ROOT.glob(".github/workflows/*.yml"))}
TEMPLATES = sorted(ROOT.glob(".github/ISSUE_TEMPLATE/[!c]*.yml"))

every_workflow = pytest.mark.parametrize("name", WORKFLOWS)


def read(path):
    """Read YAML; the key `on` is True in YAML 1.1, and is called so here."""
    found = yaml.safe_load(path.read_text("utf-8"))
    return {"on" if key is True else key: value for key, value in found.items()}


def steps(name):
    """List the steps of all jobs of a workflow."""
    jobs = read(WORKFLOWS[name])["jobs"].values()
    return [step for job in jobs for step in job.get("steps", [])]


def test_they_are_found():
    assert {*WORKFLOWS} == {"test", "versions", "mutants", "wheel", "book", "release"}
    assert len(TEMPLATES) == 3


@every_workflow
def test_a_workflow_may_do_little_and_ends(name):
    """Rights are given to single jobs that publish; a newer push ends an older run."""
    workflow = read(WORKFLOWS[name])
    assert workflow["permissions"] == {"contents": "read"}
    # a called workflow has its caller's name: with that it would wait for itself
    assert workflow["concurrency"]["group"] == f"{name}-${{{{ github.ref }}}}"
    for job in workflow["jobs"].values():
        assert "uses" in job or 0 < job["timeout-minutes"] < 360
        rights = job.get("permissions", {})
        assert not rights or {"id-token"} <= {*rights} <= {"id-token", "pages"}
    assert "pull_request_target" not in workflow["on"]


@every_workflow
def test_what_a_workflow_uses_is_there(name):
    for step in steps(name):
        action = step.get("uses", "")
        if action.startswith("./"):
            assert (ROOT / action / "action.yml").is_file(), action
        else:
            assert not action or re.fullmatch(r"[\w-]+/[\w-]+@[\w./]+", action)
        if action.startswith("actions/checkout"):
            assert step["with"] == {"persist-credentials": False}
        for script in re.findall(r"(?:scripts/\w+\.py|\.ci/\w+)", step.get("run", "")):
            assert (ROOT / script).is_file(), script
    text = WORKFLOWS[name].read_text("utf-8")
    for called in re.findall(r"uses: \./(\S+\.yml)", text):
        assert (ROOT / called).is_file()


def test_every_supported_python_and_system_is_met():
    text = WORKFLOWS["test"].read_text("utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lowest = int(project["requires-python"].removeprefix(">=3."))
    for job in ("quick", "whole"):
        matrix = read(WORKFLOWS["test"])["jobs"][job]["strategy"]["matrix"]["include"]
        versions = {int(entry["python"].removeprefix("3.")) for entry in matrix}
        assert versions == {*range(lowest, 15)}
    for system in ("ubuntu", "macos", "windows"):
        assert f"{system}-latest" in text


def test_weekly_runs_are_weekly():
    for name in ("versions", "mutants"):
        (when,) = read(WORKFLOWS[name])["on"]["schedule"]
        assert re.fullmatch(r"\d+ \d+ \* \* [0-6]", when["cron"])
    ends = read(WORKFLOWS["versions"])["jobs"]["pytest"]["strategy"]["matrix"][
        "include"
    ]
    assert {(e["ends"], e["torch"]) for e in ends} == {
        ("--resolution=lowest-direct", "released"),
        ("--upgrade", "released"),
        ("--upgrade", "candidate"),
    }
    (install,) = (s for s in steps("versions") if s.get("uses", "").startswith("./"))
    assert install["with"]["torch"] == "false", "an installed one would be kept"


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_issues_bring_what_check_says(path):
    form = read(path)
    assert {"name", "description", "body"} <= {*form}
    fields = {field["id"]: field for field in form["body"]}
    assert len(fields) == len(form["body"])
    assert "`diver-lite check`" in fields["check"]["attributes"]["label"]


def test_pull_requests_bring_what_check_says():
    text = (ROOT / ".github/pull_request_template.md").read_text("utf-8")
    assert "`diver-lite check`" in text
    assert "make test-quick" in text


def test_dependabot_sees_all_actions():
    (update,) = read(ROOT / ".github/dependabot.yml")["updates"]
    assert update["package-ecosystem"] == "github-actions"
    places = [path.parent for path in ROOT.glob(".github/actions/*/action.yml")]
    assert places
    assert update["directories"] == ["/", "/.github/actions/*"]


def test_the_container_can_be_read():
    found = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text("utf-8"))
    assert found["containerEnv"] == {"UV_TORCH_BACKEND": "cpu"}
    assert found["image"].rpartition(":")[2] in ("3.11", "3.12", "3.13", "3.14")


def test_the_book_shows_the_same_text():
    contents = (ROOT / "_toc.yml").read_text("utf-8")
    assert "- file: CONTRIBUTING\n" in contents
