#!/usr/bin/env bash
# What keeps scores trustworthy, shown on a lab that is up (`npm run lab`, in another terminal):
# rejects, duplicates, gates, a profile beside the last one, publishing by hand, rollback.
#
#   . .lab/lab.env && bash scripts/demo/trust.sh
set -euo pipefail
: "${UPLOADER_URL:?Start the lab (npm run lab), then source .lab/lab.env.}"
model="demo_$(date +%s)"
dir="$(mktemp -d)"
trap 'rm -rf "$dir"' EXIT

say() { printf '\n== %s\n' "$*"; }

# api VERB PATH [BODY]: the answer's JSON
api() {
  curl -sS -X "$1" "$UPLOADER_URL$2" -H "Authorization: Bearer $UPLOADER_TOKEN" \
    ${3:+-H 'Content-Type: application/json' -d "$3"}
}

# push RUN: what stands on stdin, and the exit code (65: a human must act)
push() {
  mkdir -p "$dir/$1" && cat > "$dir/$1/scores.jsonl"
  local code=0
  npx uploader push "$dir/$1" --model "$model" --run "$1" --json || code=$?
  echo "exit code $code"
}

# scores ROWS SHIFT: that many lines, each scored by its key plus SHIFT
scores() { awk -v rows="$1" -v shift="$2" 'BEGIN { for (i = 1; i <= rows; i++) printf "{\"pk\":\"%d\",\"score\":%d}\n", i, i + shift }'; }

# show RUN: state, gates and profiles
show() {
  api GET "/v1/models/$model/runs/$1" | node -e '
    const { state, gates, profile, previous } = JSON.parse(require("fs").readFileSync(0));
    console.log(JSON.stringify({ state, gates, profile, previous }));'
}

say "A good run is published"
scores 100000 0 | push oct

say "Bad lines: the run fails, each is told with line, byte and excerpt"
{ scores 1000 0; echo '{"pk":"x"}'; echo '{"pk":"y","score":"NaN"}'; } | push bad
api GET "/v1/models/$model/runs/bad/rejects"

say "Two keys twice: each place is told"
{ scores 1000 0; scores 2 5; } | push twice
api GET "/v1/models/$model/runs/twice/rejects"

say "A contract: at most 10 % more or fewer rows, scores that do not drift, two bad lines allowed"
api PUT "/v1/models/$model" '{"maxRowChangePercent":10,"maxScoreShiftPsi":0.25,"maxRejectedLines":2}'

say "The bad run again, under this contract: too few rows by far, so that it is held, not published"
api POST "/v1/models/$model/runs/bad/retry" '{"reason":"two lines do not matter"}' > /dev/null
until show bad | grep -qE '"(held|failed|published)"'; do sleep 1; done
show bad

say "Published by hand all the same, with who and why; then rolled back: a row is written, no score moves"
npx uploader publish "$model" bad --force --reason "a test" --json
time npx uploader publish "$model" oct --reason "it was a test" --json

say "A drifted run is held too; its profile stands beside the published one"
scores 100000 60000 | push nov
show nov
