"""Users of an RBAC database: sqlite, below api/configuration/security."""

import hashlib
import sqlite3

from wazuh.core import common
from wazuh.core.common import exposed
from wazuh.core.exception import WazuhError, WazuhInternalError, WazuhPermissionError
from wazuh.core.results import AffectedItemsWazuhResult

DATABASE = common.ROOT / "api" / "configuration" / "security" / "rbac.db"


def connect():
    if not DATABASE.exists():
        raise WazuhInternalError(2008)
    return sqlite3.connect(DATABASE, timeout=0.5)


def digest(password):
    return hashlib.sha256(password.encode()).hexdigest()


def check(action):
    permissions = common.rbac.get()
    allowed = permissions.get("rbac_mode") == "black"
    for effect in permissions.get(action, {}).values():
        allowed = effect == "allow"
    if not allowed:
        raise WazuhPermissionError(4000, extra_message="Resource type: user:id")


@exposed
def get_users(user_ids=None, **others):
    check("security:read")
    with connect() as database:
        rows = database.execute("select id, name from user order by id").fetchall()
    return AffectedItemsWazuhResult([{"id": row[0], "username": row[1]} for row in rows])


@exposed
def create_user(username=None, password=None, **others):
    check("security:create_user")
    try:
        with connect() as database:
            database.execute("insert into user (name, password) values (?, ?)", (username, digest(password)))
    except sqlite3.IntegrityError:
        raise WazuhError(5000, ids=[username]) from None
    return AffectedItemsWazuhResult([{"username": username}])


@exposed
def get_user_me(**others):
    with connect() as database:
        row = database.execute("select id, name from user where name = ?", (common.current_user.get(),)).fetchone()
    return AffectedItemsWazuhResult([{"id": row[0], "username": row[1]}] if row else [])
