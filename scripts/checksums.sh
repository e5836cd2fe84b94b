#!/usr/bin/env bash
# Renew diver_lite/assets/SHA256SUMS after shipped files changed.
set -euo pipefail
cd "$(dirname "$0")/../diver_lite/assets"
find . -type f ! -name '*.py' ! -name '*.pyc' ! -name SHA256SUMS | sed 's|^\./||' |
  LC_ALL=C sort | xargs sha256sum > SHA256SUMS
