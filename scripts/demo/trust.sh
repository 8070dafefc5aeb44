#!/usr/bin/env bash
# What keeps scores trustworthy: rejects, duplicates, gates, profiles, publishing by hand, rollback, compressed files,
# retention, and the history of a run. Runs from a checkout, without any preparation:
#
#   bash scripts/demo/trust.sh
#
# It starts its own lab (real service, loader and PostgreSQL) and stops it at the end, which takes about three minutes.
# To use a lab that is running already (`npm run lab`, in another terminal), with a new model:
#
#   . .lab/lab.env && bash scripts/demo/trust.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
model="demo_$(date +%s)"
dir="$(mktemp -d)"
lab_pid=''

finish() {
  if [ -n "$lab_pid" ]; then
    kill -TERM "$lab_pid" 2> /dev/null || true
    wait "$lab_pid" || true
  fi
  rm -rf "$dir"
}
trap finish EXIT

start_lab() {
  echo 'Starting a lab (installs and builds what is missing; takes 30 s to 2 min) …'
  LAB_HOME="$dir/lab" LAB_PORT=0 node scripts/run.mjs lab > "$dir/lab.log" 2>&1 &
  lab_pid=$!
  until grep -q 'The lab is up' "$dir/lab.log"; do
    if ! kill -0 "$lab_pid" 2> /dev/null; then
      cat "$dir/lab.log"
      echo 'The lab did not start; its output is above.' >&2
      lab_pid=''
      exit 1
    fi
    sleep 1
  done
  . "$dir/lab/lab.env"
}

say() { printf '\n\n== %s\n\n' "$*"; }

# uploader ARGS…: prints the command, runs it, and prints the exit code when it is not 0 (65: a person must act)
uploader() {
  local shown code=0
  shown="$(printf ' %q' "$@")"
  echo "\$ uploader${shown//"$dir/"/}"
  node_modules/.bin/uploader "$@" 2>&1 | sed "s#$dir/##g" || code="${PIPESTATUS[0]}"
  if [ "$code" -ne 0 ]; then echo "(exit code $code)"; fi
}

# api VERB PATH [BODY] [HEADER]: prints the answer
api() {
  curl -sS -X "$1" "$UPLOADER_URL$2" -H "Authorization: Bearer $UPLOADER_TOKEN" \
    ${3:+-H 'Content-Type: application/json' -d "$3"} ${4:+-H "$4"}
}

# push RUN [FILE]: pushes stdin as a file of that name
push() {
  mkdir -p "$dir/$1" && cat > "$dir/$1/${2:-scores.jsonl}"
  uploader push "$dir/$1" --model "$model" --run "$1"
}

# scores ROWS SHIFT: prints ROWS lines, each with its key plus SHIFT as its score
scores() { awk -v rows="$1" -v shift="$2" 'BEGIN { for (i = 1; i <= rows; i++) printf "{\"pk\":\"%d\",\"score\":%d}\n", i, i + shift }'; }

# show RUN: its state, its gates, and its profile beside that of the run that was published at that time
show() {
  api GET "/v1/models/$model/runs/$1" | node --input-type=module -e '
    import { readFileSync } from "node:fs";
    const { run, state, rows, rejects, gates, profile, previous } = JSON.parse(readFileSync(0, "utf8"));
    console.log(`${run}: ${state}${rows === null ? "" : `, ${rows} rows`}, ${rejects.total} lines rejected`);
    for (const { gate, expected, found, broken } of gates ?? [])
      console.log(`  ${broken ? "BROKEN" : "kept  "} ${gate}: expected ${expected}, found ${found}`);
    const showProfile = (name, { rows, min, max, mean, deciles }) =>
      console.log(`  ${name}: ${rows} rows, ${min} to ${max}, mean ${mean}, deciles ${deciles.join(" ")}`);
    if (profile !== null) showProfile("this run", profile);
    if (profile !== null && previous?.profile) showProfile(`${previous.run}, published then`, previous.profile);'
}

# What an application reads now.
read_scores() {
  echo "> SELECT run, count(*), min(score), max(score) FROM scores.$model GROUP BY run"
  node --input-type=module -e '
    import pg from "pg";
    const client = new pg.Client({ connectionString: process.env.DATABASE_URL });
    await client.connect();
    const { rows } = await client.query(`SELECT run, count(*), min(score), max(score) FROM scores."${process.argv[1]}" GROUP BY run`);
    for (const row of rows) console.log(Object.values(row).join(" | "));
    await client.end();' "$model"
}

if [ -z "${UPLOADER_URL:-}" ]; then start_lab; fi
export UPLOADER_URL UPLOADER_TOKEN DATABASE_URL

say 'October is a gzip file: the uploader sends, hashes and counts it as it is, and the loader expands it'
scores 100000 0 | gzip | push october scores.jsonl.gz
read_scores

say 'A truncated file is rejected before a byte is sent'
scores 1000 0 | gzip | head -c 2000 | push cut scores.jsonl.gz

say 'Bad lines: the whole run is read, each bad line is reported with file, line, byte and excerpt, and nothing is published'
{ scores 1000 0; echo '{"pk":"x"}'; echo '{"pk":"y","score":"NaN"}'; } | push november
api GET "/v1/models/$model/runs/november/rejects"

say 'Duplicate keys: each position is reported'
{ scores 1000 0; scores 2 5; } | push twice

say 'A contract: two bad lines allowed, at most 10 % more or fewer rows, scores that do not drift'
contract='{"maxRejectedLines":2,"maxRowChangePercent":10,"maxScoreShiftPsi":0.25,"keepRevisions":1}'
echo "PUT /v1/models/$model $contract"
api PUT "/v1/models/$model" "$contract" > /dev/null

say 'The November run again, under this contract: its bad lines are left out, but it has far fewer rows, so it is held'
uploader retry "$model" november --reason 'two lines do not matter'
show november
read_scores

say 'Publishing it needs --force and a reason; both are recorded, with the name of the person'
uploader publish "$model" november --reason 'a short month'
uploader publish "$model" november --force --reason 'a short month'
read_scores

say 'Rollback: a few rows are written, and no score is copied'
before="$(curl -sS -o /dev/null -D - "$UPLOADER_URL/v1/models/$model" -H "Authorization: Bearer $UPLOADER_TOKEN" |
  tr -d '\r' | awk 'tolower($1) == "etag:" { print $2 }')"
echo "PUT /v1/models/$model/current {\"run\":\"october\", …} with If-Match: $before"
curl -sS -X PUT "$UPLOADER_URL/v1/models/$model/current" -H "Authorization: Bearer $UPLOADER_TOKEN" \
  -H 'Content-Type: application/json' -H "If-Match: $before" -d '{"run":"october","reason":"it was a mistake"}' \
  -o /dev/null -w 'answered %{http_code} in %{time_total} s\n'
read_scores

say 'Another person, who saw the model before the rollback, tries to publish: rejected (412)'
api PUT "/v1/models/$model/current" '{"run":"november","reason":"good again","force":true}' "If-Match: $before"
echo

say 'The scores of December have drifted: the run is held; its profile beside the published one'
scores 100000 60000 | push december
show december

say 'Retention: this model keeps one older run beside the published one; older rows are deleted, without blocking readers'
scores 101000 0 | push january
scores 102000 0 | push february
echo 'waiting for the sweep, which runs once a minute …'
for _ in $(seq 120); do
  gone="$(api GET "/v1/models/$model/runs/october/history" | grep -c '"retire"' || true)"
  if [ "$gone" -gt 0 ]; then break; fi
  sleep 1
done
uploader publish "$model" october --reason 'back to October'
read_scores

say 'The history of November'
api GET "/v1/models/$model/runs/november/history" | node -e '
  const { events } = JSON.parse(require("fs").readFileSync(0));
  for (const { at, actor, action, detail } of events.reverse())
    console.log(at, actor, action, detail?.reason ? JSON.stringify(detail.reason) : "");'
