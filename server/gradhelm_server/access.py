"""The commands about who may come in: links, tokens, people."""

from __future__ import annotations

import argparse
import getpass
import sys
from typing import Any
from urllib.parse import quote

from gradhelm.rest import Client

from .endings import Failed, Usage
from .words import ago, print_json, print_table, safe


def link(_: argparse.Namespace) -> None:
    print(_link(Client.here(), {}))


def _link(client: Client, body: dict[str, Any]) -> str:
    code = client.ask("POST", "login-links", body=body).body["code"]
    return f"{client.server}/login#{code}"


# -- tokens ---------------------------------------------------------------------------------------


def token_create(arguments: argparse.Namespace) -> None:
    body = {
        "role": arguments.role,
        "project": arguments.project,
        "name": arguments.name,
        "expires_in": arguments.expires,
    }
    made = Client.here().ask("POST", "tokens", body=body).body
    if arguments.json:
        print_json(made)
    else:
        print(made["token"])
        print("This token is not shown again. Use it as GRADHELM_TOKEN.", file=sys.stderr)


def token_list(arguments: argparse.Namespace) -> None:
    found = Client.here().ask("GET", "tokens").body
    if arguments.json:
        print_json(found)
        return
    rows = [("ID", "NAME", "ROLE", "PROJECT", "OWNER", "CREATED", "LAST USED", "STATE")]
    for token in found["tokens"]:
        state = "revoked" if token["revoked_at"] else f"expires {token['expires_at'] or 'never'}"
        rows.append(
            (
                token["id"],
                safe(token["name"]),
                token["role"],
                _project(token["project"]),
                safe(token["owner"] or "–"),
                ago(token["created_at"]),
                _last(token["last_used_at"]),
                state,
            )
        )
    print_table(rows)


def token_revoke(arguments: argparse.Namespace) -> None:
    Client.here().ask("DELETE", f"tokens/{quote(arguments.id, safe='')}")
    print(f"token {arguments.id} is revoked")


# -- people ---------------------------------------------------------------------------------------


def user_add(arguments: argparse.Namespace) -> None:
    client = Client.here()
    body: dict[str, Any] = {"name": arguments.name, "grants": _grants(arguments.grants)}
    if not arguments.link:
        body["password"] = _new_password(arguments)
    made = client.ask("POST", "users", body=body).body
    if arguments.link:
        made["link"] = _link(client, {"user": made["id"]})
    if arguments.json:
        print_json(made)
        return
    print(f"{safe(made['name'])}: {_shown(made['grants'])}")
    if arguments.link:
        _print_link(made["link"])


def user_list(arguments: argparse.Namespace) -> None:
    found = Client.here().ask("GET", "users").body
    if arguments.json:
        print_json(found)
        return
    if not found["users"]:
        print("there are no accounts; `gradhelm user add NAME --role operator` makes one")
        return
    rows = [("NAME", "MAY", "SIGNS IN BY", "LAST SIGN-IN", "STATE")]
    for user in found["users"]:
        ways = [name for name in ("password", "oidc") if user[name]]
        rows.append(
            (
                safe(user["name"]),
                safe(_shown(user["grants"])),
                ", ".join(ways) or "link only",
                _last(user["last_login_at"]),
                "disabled" if user["disabled_at"] else "active",
            )
        )
    print_table(rows)


def user_grant(arguments: argparse.Namespace) -> None:
    changed = _change(arguments.name, {"grants": _grants(arguments.grants)})
    print(f"{safe(changed['name'])}: {_shown(changed['grants'])}")


def user_password(arguments: argparse.Namespace) -> None:
    _change(arguments.name, {"password": _new_password(arguments)})
    print("the password is set; all sessions of this account have ended")


def user_link(arguments: argparse.Namespace) -> None:
    client = Client.here()
    _print_link(_link(client, {"user": _find(client, arguments.name)["id"]}))


def user_disable(arguments: argparse.Namespace) -> None:
    _change(arguments.name, {"disabled": True})
    print("the account lets nobody in any more, nor do its tokens")


def user_enable(arguments: argparse.Namespace) -> None:
    _change(arguments.name, {"disabled": False})
    print("the account lets its user in again")


def user_remove(arguments: argparse.Namespace) -> None:
    client = Client.here()
    client.ask("DELETE", f"users/{_find(client, arguments.name)['id']}")
    print("the account, its sessions and its tokens are gone; what it did stays in the history")


def _find(client: Client, name: str) -> dict[str, Any]:
    users = client.ask("GET", "users").body["users"]
    found = [user for user in users if user["name"].casefold() == name.casefold()]
    if not found:
        raise Failed(f"there is no user {name!r}; `gradhelm user list` shows them")
    return dict(found[0])


def _change(name: str, body: dict[str, Any]) -> dict[str, Any]:
    client = Client.here()
    user = _find(client, name)["id"]
    return client.ask("PATCH", f"users/{user}", body=body).body


def _grants(asked: list[tuple[str, str]]) -> dict[str, str]:
    found = dict(asked)
    if len(found) < len(asked):
        raise Usage("a project stands twice among the grants")
    return found


def _new_password(arguments: argparse.Namespace) -> str:
    """Never an argument: those are read by everybody on the machine, and kept in histories."""
    if arguments.password_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        raise Usage("there is no terminal to ask for the password: --password-stdin, or --link")
    password = getpass.getpass("New password: ")
    if getpass.getpass("Once more: ") != password:
        raise Failed("these were two different passwords; nothing was changed")
    return password


def _print_link(link: str) -> None:
    print(link)
    print("It works once, for ten minutes, and lets a password be set.", file=sys.stderr)


def _project(name: str) -> str:
    return "all" if name == "*" else safe(name)


def _shown(granted: dict[str, str]) -> str:
    return ", ".join(f"{role} in {_project(project)}" for project, role in sorted(granted.items()))


def _last(moment: str | None) -> str:
    return ago(moment) if moment else "never"
