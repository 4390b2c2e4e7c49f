"""Endpoints of rule and decoder files and of CDB lists (dapi.md 5.6)."""

from clusterd.api.endpoint import Body, Endpoint, Function
from clusterd.api.parameters import LIMIT, OFFSET, RAW, Parameter, list_parameters, searching
from clusterd.dapi.protocol.request import LOCAL_ANY, LOCAL_MASTER, RequestType

XML_NAME = r"^[A-Za-z0-9_-]{1,251}\.xml$"
LIST_NAME = r"^[A-Za-z0-9_-]{1,255}$"
_TREE = r"(/[A-Za-z0-9_-]{1,255}){0,8}/?$"
_OVERWRITE = Parameter(
    name="overwrite", kind="boolean", default=False, about="Replace a file of this name; without it that is refused."
)
_STATUS_OF_FILE = Parameter(
    name="status", choices=("enabled", "disabled", "all"), is_lowered=True, about="Files that are used, or not."
)
VALUE = r"^[^,;\u0000-\u001f\u007f]{1,128}$"
STANDARDS = {
    "pci_dss": "PCI DSS",
    "gpg13": "GPG 13",
    "gdpr": "GDPR",
    "hipaa": "HIPAA",
    "nist-800-53": "NIST 800-53",
    "tsc": "TSC",
    "mitre": "MITRE",
}
_TEXT = Body(keyword="content")


def _directory(pattern: str) -> Parameter:
    return Parameter(name="relative_dirname", pattern=pattern, about="A directory below the installation's.")


def _file_name(pattern: str, *, is_listed: bool = False) -> Parameter:
    return Parameter(name="filename", place="path", pattern=pattern, is_listed=is_listed, about="The file's name.")


def _files(word: str, words: str) -> tuple[Endpoint, ...]:
    """Returns the endpoints of one kind of files. `word`: rule or decoder; `words`: as in the path."""
    directory = _directory(rf"^(etc|ruleset)/{words}{_TREE}")
    name = _file_name(XML_NAME)

    def function(qualname: str, request_type: RequestType) -> Function:
        return Function(f"wazuh.{word}", qualname, request_type)

    return (
        Endpoint(
            f"GET /{words}/files",
            f"The files with {words}",
            function(f"get_{words}_files", LOCAL_ANY),
            (
                *list_parameters("words", sort="filename"),
                _STATUS_OF_FILE,
                Parameter(name="filename", kind="texts", pattern=XML_NAME, about="Names of files, comma separated."),
                directory,
            ),
        ),
        Endpoint(
            f"GET /{words}/files/{{filename}}",
            f"A file with {words}",
            function(f"get_{word}_file", LOCAL_MASTER),
            (name, directory, RAW),
            raw_type="application/xml",
        ),
        Endpoint(
            f"PUT /{words}/files/{{filename}}",
            f"Upload a file with {words} to the master; it goes to all nodes",
            function(f"upload_{word}_file", LOCAL_MASTER),
            (name, directory, _OVERWRITE),
            body=_TEXT,
        ),
        Endpoint(
            f"DELETE /{words}/files/{{filename}}",
            f"Delete a file with {words}",
            function(f"delete_{word}_file", LOCAL_MASTER),
            (name, directory),
        ),
    )


def _parsed(word: str, words: str) -> tuple[Parameter, ...]:
    """Returns the parameters that lists of parsed rules and decoders share."""
    return (
        *list_parameters("words"),
        _STATUS_OF_FILE,
        Parameter(name="filename", kind="texts", pattern=XML_NAME, about="Names of files, comma separated."),
        _directory(rf"^(etc|ruleset)/{words}{_TREE}"),
    )


def _ruleset(module: str, name: str) -> Function:
    return Function(f"wazuh.{module}", name, LOCAL_ANY)


def _value(name: str, about: str, pattern: str = VALUE, keyword: str = "") -> Parameter:
    return Parameter(name=name, pattern=pattern, keyword=keyword, about=about)


_VALUES = (OFFSET, LIMIT, searching("words"))
PARSED = (
    Endpoint(
        "GET /rules",
        "Rules of all files that the node loads",
        _ruleset("rule", "get_rules"),
        (
            Parameter(name="rule_ids", kind="texts", pattern=r"^[0-9]{1,20}$", about="Ids of rules, comma separated."),
            *_parsed("rule", "rules"),
            _value("group", "Rules of this group."),
            _value("level", "A level, or the first and last of several, like 2-4.", r"^[0-9]{1,2}(-[0-9]{1,2})?$"),
            *(
                _value(name, f"Rules for this requirement of {title}.", keyword=name.replace("-", "_"))
                for name, title in STANDARDS.items()
            ),
        ),
    ),
    Endpoint("GET /rules/groups", "The groups of rules", _ruleset("rule", "get_groups"), _VALUES),
    Endpoint(
        "GET /rules/requirement/{requirement}",
        "The requirements of a standard that rules are for",
        _ruleset("rule", "get_requirement"),
        (
            Parameter(name="requirement", place="path", choices=tuple(STANDARDS), is_lowered=True, about="A standard."),
            *_VALUES,
        ),
    ),
    Endpoint(
        "GET /decoders",
        "Decoders of all files that the node loads",
        _ruleset("decoder", "get_decoders"),
        (
            Parameter(
                name="decoder_names", kind="texts", pattern=VALUE, keyword="names", about="Names, comma separated."
            ),
            *_parsed("decoder", "decoders"),
        ),
    ),
    Endpoint(
        "GET /decoders/parents",
        "Decoders that are no children of others",
        _ruleset("decoder", "get_decoders"),
        _parsed("decoder", "decoders"),
        constants={"parents": True},
    ),
)


def _list_function(name: str) -> Function:
    return Function("wazuh.cdb_list", name, LOCAL_MASTER)


_LIST_DIRECTORY = _directory(rf"^(etc|ruleset)/lists{_TREE}")
_LIST_NAMES = Parameter(name="filename", kind="texts", pattern=LIST_NAME, about="Names of lists, comma separated.")
LISTS = (
    Endpoint(
        "GET /lists",
        "CDB lists with what is in them",
        _list_function("get_lists"),
        (*list_parameters("words"), _LIST_NAMES, _LIST_DIRECTORY),
    ),
    Endpoint(
        "GET /lists/files",
        "The files with CDB lists",
        _list_function("get_path_lists"),
        (*list_parameters("words"), _LIST_NAMES, _LIST_DIRECTORY),
    ),
    Endpoint(
        "GET /lists/files/{filename}",
        "A CDB list",
        _list_function("get_list_file"),
        (_file_name(LIST_NAME, is_listed=True), RAW),
        raw_type="text/plain",
    ),
    Endpoint(
        "PUT /lists/files/{filename}",
        "Upload a CDB list to the master; it goes to all nodes",
        _list_function("upload_list_file"),
        (_file_name(LIST_NAME), _OVERWRITE),
        body=_TEXT,
    ),
    Endpoint(
        "DELETE /lists/files/{filename}",
        "Delete a CDB list",
        _list_function("delete_list_file"),
        (_file_name(LIST_NAME),),
    ),
)
_RULES, _DECODERS = ([one for one in PARSED if one.tag == tag] for tag in ("Rules", "Decoders"))
RULESET = (*_RULES, *_files("rule", "rules"), *_DECODERS, *_files("decoder", "decoders"), *LISTS)
