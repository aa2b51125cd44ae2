"""The alert rules, the dashboard and the scrape configuration are what Prometheus and Grafana take."""

import json
import re

import pytest
import yaml

from tests.fixtures import monitoring

DURATION = re.compile(r"^\d+[smhd]$")


@pytest.mark.parametrize("query", monitoring.queries())
def test_every_query_is_promql_and_names_a_metric(query: str) -> None:
    assert list(monitoring.selected(query))


def test_a_query_that_is_none_is_found_out() -> None:
    with pytest.raises(ValueError, match="invalid promql"):
        list(monitoring.selected("sum by (kind foretune_jobs)"))


def test_every_alert_says_what_it_is_and_how_urgent() -> None:
    names = [rule["alert"] for rule in monitoring.rules()]
    assert len(set(names)) == len(names) >= 15
    for rule in monitoring.rules():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["alert"].startswith("Foretune")
        assert DURATION.match(rule.get("for", "0s"))
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["summary"]


def test_every_alert_is_explained_to_those_on_duty() -> None:
    explained = (monitoring.FOLDER.parent / "docs" / "monitoring.md").read_text()
    assert [rule["alert"] for rule in monitoring.rules() if f"`{rule['alert']}`" not in explained] == []


def test_the_panels_of_the_dashboard_lie_beside_each_other() -> None:
    dashboard = json.loads((monitoring.FOLDER / "grafana-dashboard.json").read_text())
    assert (dashboard["uid"], dashboard["title"]) == ("foretune", "Foretune")
    assert dashboard["schemaVersion"] >= 39
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in monitoring.panels():
        assert panel["targets"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


def test_prometheus_reads_the_rules_and_the_jobs_that_they_name() -> None:
    config = yaml.safe_load((monitoring.FOLDER / "prometheus.yml").read_text())
    assert config["rule_files"] == ["alerts.yaml"]
    jobs = {job["job_name"] for job in config["scrape_configs"]}
    named = set(re.findall(r'job="([^"]+)"', " ".join(monitoring.queries())))
    assert named == jobs
