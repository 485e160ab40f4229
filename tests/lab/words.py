"""How the scenario language registers its commands; the commands are in scenario.py and vipwords.py."""
import json
import re

COMMANDS = []


def command(pattern):
    """Registers a method for the lines that match the pattern."""
    def register(method):
        COMMANDS.append((re.compile(pattern + r"$"), method.__name__, pattern, method.__doc__))
        return method
    return register


def unquote(text):
    """A double-quoted JSON string, or the text as it is."""
    text = text.strip()
    return json.loads(text) if text.startswith('"') else text


def language():
    """The list of commands."""
    return "\n".join(f"  {doc.strip()}" for _, _, _, doc in COMMANDS)
