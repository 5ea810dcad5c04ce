"""Print the lowest version of each dependency that pyproject.toml allows, as constraints for pip."""

import re
from pathlib import Path

for name, version in re.findall(r'"([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)[^"]*"', Path("pyproject.toml").read_text()):
    print(f"{name}=={version}")
