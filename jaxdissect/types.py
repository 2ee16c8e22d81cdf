"""Names for JSON values, whose type no annotation can say more exactly."""

from typing import Any, TypeAlias

Json: TypeAlias = Any  # what json.loads returns
Record: TypeAlias = dict[str, Any]  # a JSON object, as each stage's in run.json
