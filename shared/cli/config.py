"""The settings as a command sees them: options override the environment, errors are sentences."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from shared.errors import InvalidArgument

if TYPE_CHECKING:
    from shared.settings import Settings


def load_settings(overrides: Mapping[str, str] | None = None) -> Settings:
    """This process's settings, after `overrides` went into its environment.

    Children inherit the environment, so an option reaches every service as a STEP3_* variable.
    Paths are made absolute there: a service may run in another folder.

    Raises:
      InvalidArgument: a setting is refused; the message names its variable and value.
    """
    import yaml
    from pydantic import ValidationError

    from shared.settings import settings

    os.environ.update(overrides or {})
    for name in ("STEP3_HOME", "STEP3_MODEL"):
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).expanduser().absolute())
    try:
        return settings()
    except ValidationError as error:
        first = error.errors()[0]
        variable = "STEP3_" + "__".join(str(part).upper() for part in first["loc"])
        raise InvalidArgument(
            f"{variable} = {first['input']!r}: {first['msg']}",
            reason="BAD_SETTING",
            field=variable,
        ) from error
    except yaml.YAMLError as error:
        home = os.environ.get("STEP3_HOME", ".step3")
        raise InvalidArgument(
            f"{home}/step3.yaml is no valid YAML: {' '.join(str(error).split())}",
            reason="BAD_SETTING",
            field="step3.yaml",
        ) from error
