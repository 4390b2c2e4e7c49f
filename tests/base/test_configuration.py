"""The configuration: recorded cluster blocks, cluster.json, internal options. All mistakes are reported at once
(wire.md 7)."""

import json
from pathlib import Path
from typing import Any

import pytest

from clusterd.config.loading import load
from clusterd.settings import CAPABILITIES, Settings

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent.parent / "vectors" / "config.json").read_text(encoding="utf-8")
)["cases"]
KEY = "c98b62a9b6169ac5f67dae55ae4a9088"
GOOD = f"""<ossec_config>
  <cluster>
    <node_name>n1</node_name>
    <key>{KEY}</key>
    <nodes><node>10.0.0.1</node></nodes>
  </cluster>
</ossec_config>
"""
HA = {"enabled": True, "advertise": "10.0.0.2:1516", "etcd": {"endpoints": ["http://127.0.0.1:2379"]}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "ossec.conf").write_text(GOOD)
    return tmp_path


def settings_of(root: Path) -> Settings:
    loaded = load(str(root))
    assert loaded.problems == []
    assert loaded.settings is not None
    return loaded.settings


@pytest.mark.parametrize("case", VECTORS, ids=[case["name"] for case in VECTORS])
def test_recorded_blocks_are_read_as_stock_reads_them(root: Path, case: dict[str, Any]) -> None:
    (root / "etc" / "ossec.conf").write_text(case["xml"], encoding="utf-8")
    loaded = load(str(root))
    if case["name"] == "key_non_ascii":  # tests/vectors/README.md: not to be imitated
        assert "Key must be 32 characters long" in loaded.problems[0].stock_text
    elif case["outcome"] == "error" and case["name"].startswith("haproxy_"):  # the same: ours does not run the helper
        assert loaded.settings is not None
        assert "does not run the HAProxy helper" in str(loaded.warnings[0])
    elif case["outcome"] == "error":
        assert loaded.settings is None
        expected, found = case["error"], loaded.problems[0].stock_text
        if case["name"] == "bad_xml":
            assert found.startswith("Error 3006 - Error reading cluster configuration: ")
        elif case["name"] == "two_reserved":
            assert set(found.rstrip(".").split(": ")[2].split(", ")) == {"0.0.0.0", "localhost"}
        else:
            assert found == expected
    else:
        assert loaded.settings is not None
        cluster, parsed = loaded.settings.cluster, case["parsed"]
        assert cluster.disabled == parsed["disabled"]
        if not cluster.disabled:
            assert cluster.key.value.decode() == parsed["key"]
            found = {
                field: getattr(cluster, field)
                for field in ("name", "node_name", "node_type", "port", "bind_addr", "hidden")
            }
            assert found == {field: parsed[field] for field in found}
            assert list(cluster.nodes) == parsed["nodes"]


def test_every_mistake_is_reported_with_its_line_and_what_is_allowed(root: Path) -> None:
    (root / "etc" / "ossec.conf").write_text(
        "<ossec_config>\n<cluster>\n<port>80</port>\n<node_type>boss</node_type>\n<key>short</key>\n"
        "<nodes>\n<node>localhost</node>\n</nodes>\n</cluster>\n</ossec_config>\n"
    )
    (root / "etc" / "cluster.json").write_text('{"intervals": {"worker": {"keep_alive": "often"}}, "nonsense": 1}')
    loaded = load(str(root))
    texts = [str(problem) for problem in loaded.problems]
    assert len(texts) == 5
    assert "line 3: <port> is out of range; allowed: a whole number from 1025 to 65534; found: 80" in texts[0]
    assert "line 5" in texts[1]
    assert "line 4" in texts[2]
    assert "line 6" in texts[3]
    assert "intervals.worker.keep_alive" in texts[4]
    assert "'often'" in texts[4]
    assert [str(warning).endswith("nonsense: this key is not known and is ignored") for warning in loaded.warnings] == [
        True
    ]


def test_monitoring_port_that_others_reach_is_warned_about(root: Path) -> None:
    def warnings(**monitor: Any) -> list[str]:
        (root / "etc" / "cluster.json").write_text(json.dumps({"clusterd": {"monitor": monitor}}))
        loaded = load(str(root))
        assert loaded.settings is not None
        return [str(warning) for warning in loaded.warnings]

    assert warnings() == warnings(address="::1", names=["monitor.example.net"]) == []
    assert warnings(address="0.0.0.0", enabled=False) == []
    (warning,) = warnings(address="0.0.0.0")
    assert "clusterd.monitor.address" in warning
    assert "has no login" in warning
    (root / "etc" / "cluster.json").write_text('{"clusterd": {"monitor": {"address": "localhost", "names": "x"}}}')
    assert len(load(str(root)).problems) == 2


def test_the_key_is_never_shown(root: Path) -> None:
    (root / "etc" / "ossec.conf").write_text(GOOD.replace(KEY, "Secret!Secret!Secret!"))
    loaded = load(str(root))
    assert loaded.problems
    assert not [problem for problem in loaded.problems if "Secret" in str(problem) or "Secret" in problem.stock_text]
    (root / "etc" / "ossec.conf").write_text(GOOD)
    assert KEY not in repr(settings_of(root))


def test_a_file_may_have_several_roots_a_declaration_and_comments(root: Path) -> None:
    (root / "etc" / "ossec.conf").write_text(
        '<?xml version="1.0"?>\n<!-- first -->\n<ossec_config><global/></ossec_config>\n' + GOOD
    )
    assert settings_of(root).cluster.node_name == "n1"


@pytest.mark.parametrize("name", ["../../stats", "a/b", ".hidden", "ü"])
def test_a_node_name_that_could_be_a_path_is_refused(root: Path, name: str) -> None:
    (root / "etc" / "ossec.conf").write_text(GOOD.replace("n1", name), encoding="utf-8")
    assert load(str(root)).settings is None


def test_a_node_name_with_dots_is_fine(root: Path) -> None:
    (root / "etc" / "ossec.conf").write_text(GOOD.replace("n1", "siem.master.example"))
    assert settings_of(root).cluster.node_name == "siem.master.example"


def test_an_entity_is_never_expanded(root: Path) -> None:
    text = '<!DOCTYPE x [<!ENTITY a "n1">]>\n' + GOOD.replace("<node_name>n1<", "<node_name>&a;<")
    (root / "etc" / "ossec.conf").write_text(text)
    (problem,) = load(str(root)).problems
    assert problem.where == "line 4"
    assert problem.stock_text.startswith("Error 3006 - Error reading cluster configuration: ")


@pytest.mark.parametrize("node", ["10.0.0.1", "siem.example:1600", "[::1]:1600", "fe80::1", "[::1]"])
def test_addresses_of_all_kinds_are_taken(root: Path, node: str) -> None:
    (root / "etc" / "ossec.conf").write_text(GOOD.replace("10.0.0.1", node))
    assert settings_of(root).cluster.nodes == (node,)


@pytest.mark.parametrize("node", ["a b", "host:", "host:port", "[::1", "host:99999"])
def test_what_is_no_address_is_refused(root: Path, node: str) -> None:
    (root / "etc" / "ossec.conf").write_text(GOOD.replace("10.0.0.1", node))
    assert "HOST, HOST:PORT" in str(load(str(root)).problems[0])


def test_a_partial_cluster_json_changes_only_what_it_names(root: Path) -> None:
    (root / "etc" / "cluster.json").write_text(
        json.dumps(
            {
                "intervals": {"worker": {"sync_integrity": 0.5}, "master": {"process_pool_size": 3}},
                "files": {"etc/extra/": {"permissions": "0o600", "files": ["a"]}, "etc/lists/": None},
                "clusterd": {"limits": {"handshakes": 7, "divided_timeout": 3}, "version_rule": "minor"},
            }
        )
    )
    settings = settings_of(root)
    assert settings.worker.sync_integrity_s == 0.5
    assert settings.worker.keep_alive_s == 60
    assert settings.pool_size == 3
    assert settings.clusterd.limits.handshakes == 7
    assert settings.clusterd.limits.divided_timeout_s == 3
    assert settings.clusterd.version_rule == "minor"
    keys = {item.key: item for item in settings.rules.items}
    assert "etc/lists/" not in keys
    assert keys["etc/extra/"].permissions == 0o600
    assert keys["etc/client.keys".removesuffix("client.keys")].files == ("client.keys",)


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ({"intervals": {"worker": {"keep_alive": 0}}}, "intervals.worker.keep_alive"),
        ({"intervals": {"worker": {"keep_alive": True}}}, "intervals.worker.keep_alive"),
        ({"intervals": []}, "intervals"),
        ({"intervals": {"communication": {"compress_level": 10}}}, "intervals.communication.compress_level"),
        ({"intervals": {"communication": {"min_zip_size": 2_000_000_000}}}, "intervals.communication.min_zip_size"),
        ({"files": {"../etc/": {}}}, "files.../etc/"),
        ({"files": {"etc/x/": {"permissions": "rw"}}}, "files.etc/x/.permissions"),
        ({"clusterd": {"version_rule": "loose"}}, "clusterd.version_rule"),
        ({"clusterd": {"limits": {"handshakes": 0}}}, "clusterd.limits.handshakes"),
        ({"clusterd": {"tls": {"enabled": True}}}, "clusterd.tls.cert"),
        ({"clusterd": {"tls": {"enabled": True, "cert": "a" * 300}}}, "clusterd.tls.cert"),
        ({"clusterd": {"api": {"enabled": True, "port": 1516}}}, "clusterd.api.port"),
        ({"clusterd": {"link_targets": "/git"}}, "clusterd.link_targets"),
        ({"clusterd": {"link_targets": ["git"]}}, "clusterd.link_targets"),
        ({"clusterd": {"link_targets": ["/"]}}, "clusterd.link_targets"),
        ({"clusterd": {"link_targets": ["/git/../etc"]}}, "clusterd.link_targets"),
        ({"clusterd": {"max_key_loss_share": 2}}, "clusterd.max_key_loss_share"),
        ({"clusterd": {"key_loss_from": 0}}, "clusterd.key_loss_from"),
    ],
)
def test_a_wrong_value_is_named_by_its_key(root: Path, content: dict[str, Any], where: str) -> None:
    (root / "etc" / "cluster.json").write_text(json.dumps(content))
    loaded = load(str(root))
    assert loaded.settings is None
    assert loaded.problems[0].where == where


@pytest.mark.parametrize(
    ("node_type", "own", "where", "said"),
    [
        ("master", {"monitor": {"port": 1516}}, "clusterd.monitor.port", "<port>, too: only one of the two works"),
        (
            "worker",
            {"monitor": {"port": 99}, "api": {"enabled": True, "port": 99}},
            "clusterd.monitor.port",
            "clusterd.api.port, too: only one of the two works",
        ),
        (
            "worker",
            {"api": {"enabled": True, "port": 1516}, "ha": HA},
            "clusterd.api.port",
            "<port>, too, once it leads: only one works then",
        ),
        ("worker", {"api": {"enabled": True, "port": 1516}}, "", ""),
    ],
)
def test_port_that_is_used_twice_stops_no_node_that_can_work_without_the_second_one(
    root: Path, node_type: str, own: dict[str, Any], where: str, said: str
) -> None:
    conf = root / "etc" / "ossec.conf"
    conf.write_text(conf.read_text().replace("<key>", f"<node_type>{node_type}</node_type><key>"))
    (root / "etc" / "cluster.json").write_text(json.dumps({"clusterd": own}))
    loaded = load(str(root), with_api_files=False)
    assert (loaded.problems, [one.where for one in loaded.warnings]) == ([], [where] if where else [])
    assert said in "".join(map(str, loaded.warnings))


def test_section_that_a_second_one_of_its_name_hides_is_warned_about(root: Path) -> None:
    (root / "etc" / "cluster.json").write_text('{"clusterd": {"watch": false}, "clusterd": {"full_walk": 60}}')
    loaded = load(str(root))
    assert loaded.settings is not None
    assert (loaded.settings.clusterd.watch, loaded.settings.clusterd.full_walk_s) == (True, 60)
    (warning,) = loaded.warnings
    assert str(warning).endswith("clusterd: this key is given more than once in one object; the last one counts")


def test_broken_json_is_named_by_its_line(root: Path) -> None:
    (root / "etc" / "cluster.json").write_text('{\n"intervals": {,\n}')
    problem = load(str(root)).problems[0]
    assert problem.where == "line 2"
    assert problem.stock_text.startswith("Error 3005 - Error reading cluster JSON file")


def test_the_log_level_comes_from_the_local_options_first(root: Path) -> None:
    (root / "etc" / "internal_options.conf").write_text("# x\nwazuh_clusterd.debug=1\n")
    assert settings_of(root).log_level == 1
    (root / "etc" / "local_internal_options.conf").write_text("wazuh_clusterd.debug=2\n")
    assert settings_of(root).log_level == 2


def test_a_bad_log_level_counts_as_info_and_is_warned_about(root: Path) -> None:
    (root / "etc" / "internal_options.conf").write_text("wazuh_clusterd.debug=9\n")
    loaded = load(str(root))
    assert loaded.settings is not None
    assert loaded.settings.log_level == 0
    assert "allowed: 0, 1, 2; found: '9'" in str(loaded.warnings[0])


def test_the_haproxy_block_is_reported_as_not_run(root: Path) -> None:
    block = "<haproxy_helper><haproxy_disabled>no</haproxy_disabled></haproxy_helper></cluster>"
    (root / "etc" / "ossec.conf").write_text(GOOD.replace("</cluster>", block))
    loaded = load(str(root))
    assert loaded.settings is not None
    assert "does not run the HAProxy helper" in str(loaded.warnings[0])


def test_a_missing_ossec_conf_says_so(tmp_path: Path) -> None:
    loaded = load(str(tmp_path))
    assert loaded.settings is None
    assert "No such file" in str(loaded.problems[0])


# ---- capabilities ----------------------------------------------------------------------------------------------------


def caps_of(root: Path, value: Any) -> tuple[str, ...]:
    (root / "etc" / "cluster.json").write_text(json.dumps({"clusterd": {"caps": value}}))
    return settings_of(root).clusterd.caps


def test_capabilities_are_all_on_by_default(root: Path) -> None:
    assert settings_of(root).clusterd.caps == CAPABILITIES
    for value in (True, {}, {"push": True}, dict.fromkeys(CAPABILITIES, True)):
        assert caps_of(root, value) == CAPABILITIES


def test_all_capabilities_can_be_switched_off(root: Path) -> None:
    assert caps_of(root, False) == caps_of(root, dict.fromkeys(CAPABILITIES, False)) == ()


@pytest.mark.parametrize("name", CAPABILITIES)
def test_each_capability_can_be_switched_off_alone(root: Path, name: str) -> None:
    assert caps_of(root, {name: False}) == tuple(other for other in CAPABILITIES if other != name)


@pytest.mark.parametrize(
    ("value", "where", "allowed"),
    [
        ("off", "clusterd.caps", 'true, false, or an object like {"lz4": false}'),
        (0, "clusterd.caps", 'true, false, or an object like {"lz4": false}'),
        (None, "clusterd.caps", 'true, false, or an object like {"lz4": false}'),
        (["digest"], "clusterd.caps", 'true, false, or an object like {"lz4": false}'),
        ({"digest": "no"}, "clusterd.caps.digest", "true, false"),
        ({"push": 0}, "clusterd.caps.push", "true, false"),
        ({"lz4": None}, "clusterd.caps.lz4", "true, false"),
    ],
    ids=str,
)
def test_switch_of_another_kind_is_named_with_what_is_allowed(root: Path, value: Any, where: str, allowed: str) -> None:
    (root / "etc" / "cluster.json").write_text(json.dumps({"clusterd": {"caps": value}}))
    (problem,) = load(str(root)).problems
    assert (problem.where, problem.allowed) == (where, allowed)
    assert problem.found == repr(value if where == "clusterd.caps" else next(iter(value.values())))


def test_unknown_capability_causes_a_warning(root: Path) -> None:
    (root / "etc" / "cluster.json").write_text(json.dumps({"clusterd": {"caps": {"digest": False, "zstd": True}}}))
    loaded = load(str(root))
    assert loaded.problems == []
    assert [problem.where for problem in loaded.warnings] == ["clusterd.caps.zstd"]
    assert loaded.settings is not None
    assert "digest" not in loaded.settings.clusterd.caps
