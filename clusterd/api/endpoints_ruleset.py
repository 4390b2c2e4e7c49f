"""Endpoints of rule and decoder files and of CDB lists (dapi.md 5.6)."""

from clusterd.api.endpoint import Body, Endpoint, Function
from clusterd.api.parameters import RAW, Parameter, list_parameters
from clusterd.dapi.protocol.request import LOCAL_ANY, LOCAL_MASTER, RequestType

XML_NAME = r"^[A-Za-z0-9_-]{1,251}\.xml$"
LIST_NAME = r"^[A-Za-z0-9_-]{1,255}$"
_TREE = r"(/[A-Za-z0-9_-]{1,255}){0,8}/?$"
_OVERWRITE = Parameter(
    name="overwrite", kind="boolean", default=False, about="Replace a file of this name; without it that is refused."
)
_TEXT = Body(kind="text", keyword="content")


def _directory(pattern: str) -> Parameter:
    return Parameter(name="relative_dirname", pattern=pattern, about="A directory below the installation's.")


def _file_name(pattern: str, *, is_listed: bool = False) -> Parameter:
    return Parameter(name="filename", place="path", pattern=pattern, is_listed=is_listed, about="The file's name.")


def _files(word: str, words: str) -> tuple[Endpoint, ...]:
    """`word`: rule or decoder; `words`: as in the path."""
    directory = _directory(rf"^(etc|ruleset)/{words}{_TREE}")
    name = _file_name(XML_NAME)
    tag = words.capitalize()

    def function(qualname: str, request_type: RequestType) -> Function:
        return Function(module=f"wazuh.{word}", qualname=qualname, request_type=request_type)

    return (
        Endpoint(
            method="GET",
            path=f"/{words}/files",
            tag=tag,
            summary=f"The files with {words}",
            function=function(f"get_{words}_files", LOCAL_ANY),
            parameters=(
                *list_parameters("words", sort="filename"),
                Parameter(
                    name="status",
                    choices=("enabled", "disabled", "all"),
                    is_lowered=True,
                    about="Files that are used, or not.",
                ),
                Parameter(name="filename", kind="texts", pattern=XML_NAME, about="Names of files, comma separated."),
                directory,
            ),
        ),
        Endpoint(
            method="GET",
            path=f"/{words}/files/{{filename}}",
            tag=tag,
            summary=f"A file with {words}",
            function=function(f"get_{word}_file", LOCAL_MASTER),
            parameters=(name, directory, RAW),
            raw_type="application/xml",
        ),
        Endpoint(
            method="PUT",
            path=f"/{words}/files/{{filename}}",
            tag=tag,
            summary=f"Upload a file with {words} to the master; it goes to all nodes",
            function=function(f"upload_{word}_file", LOCAL_MASTER),
            parameters=(name, directory, _OVERWRITE),
            body=_TEXT,
        ),
        Endpoint(
            method="DELETE",
            path=f"/{words}/files/{{filename}}",
            tag=tag,
            summary=f"Delete a file with {words}",
            function=function(f"delete_{word}_file", LOCAL_MASTER),
            parameters=(name, directory),
        ),
    )


def _list_function(name: str) -> Function:
    return Function(module="wazuh.cdb_list", qualname=name, request_type=LOCAL_MASTER)


_LIST_DIRECTORY = _directory(rf"^(etc|ruleset)/lists{_TREE}")
_LIST_NAMES = Parameter(name="filename", kind="texts", pattern=LIST_NAME, about="Names of lists, comma separated.")
LISTS = (
    Endpoint(
        method="GET",
        path="/lists",
        tag="Lists",
        summary="CDB lists with what is in them",
        function=_list_function("get_lists"),
        parameters=(*list_parameters("words"), _LIST_NAMES, _LIST_DIRECTORY),
    ),
    Endpoint(
        method="GET",
        path="/lists/files",
        tag="Lists",
        summary="The files with CDB lists",
        function=_list_function("get_path_lists"),
        parameters=(*list_parameters("words"), _LIST_NAMES, _LIST_DIRECTORY),
    ),
    Endpoint(
        method="GET",
        path="/lists/files/{filename}",
        tag="Lists",
        summary="A CDB list",
        function=_list_function("get_list_file"),
        parameters=(_file_name(LIST_NAME, is_listed=True), RAW),
        raw_type="text/plain",
    ),
    Endpoint(
        method="PUT",
        path="/lists/files/{filename}",
        tag="Lists",
        summary="Upload a CDB list to the master; it goes to all nodes",
        function=_list_function("upload_list_file"),
        parameters=(_file_name(LIST_NAME), _OVERWRITE),
        body=_TEXT,
    ),
    Endpoint(
        method="DELETE",
        path="/lists/files/{filename}",
        tag="Lists",
        summary="Delete a CDB list",
        function=_list_function("delete_list_file"),
        parameters=(_file_name(LIST_NAME),),
    ),
)
RULESET = (*_files("rule", "rules"), *_files("decoder", "decoders"), *LISTS)
