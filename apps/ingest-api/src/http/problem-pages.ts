import { Router } from 'express';
import { ERROR_CODES, type ErrorCode, IngestError } from '../errors.ts';
import { PROBLEM_GUIDES } from './problem-guides.ts';

/** `/problems/{code}`: the page that a problem's `type` leads to. Open, as it tells nothing of anybody. */
export function problemPages(): Router {
  const router = Router();
  router.get('/problems/:code', (req, res) => {
    const { code } = req.params;
    if (!Object.hasOwn(ERROR_CODES, code)) {
      throw new IngestError('unknown_address', 'There is no problem of that name.');
    }
    res
      .set('Content-Security-Policy', "default-src 'none'; style-src 'self'; img-src 'self'")
      .set('Cache-Control', 'public, max-age=3600')
      .type('text/html')
      .send(pageOf(code as ErrorCode));
  });
  return router;
}

function pageOf(code: ErrorCode): string {
  const { status, title, retryable } = ERROR_CODES[code];
  const { happened, toDo } = PROBLEM_GUIDES[code];
  return `<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8" />
    <meta name="viewport" content="width=device-width, initial-scale=1" />
    <title>${code} · score-ingest</title>
    <link rel="icon" href="/page/icon.svg" />
    <link rel="stylesheet" href="/page/style.css" />
  </head>
  <body>
    <main>
      <p class="crumbs"><a href="/">score-ingest</a></p>
      <h1>${title}</h1>
      <p class="hint"><code>${code}</code> · ${status} · ${retryable ? 'the same request may succeed later' : 'the same request will fail again'}</p>
      <h2>What happened</h2>
      <p>${withCode(happened)}</p>
      <h2>What to do</h2>
      <ul>
        ${toDo.map((step) => `<li>${withCode(step)}</li>`).join('\n        ')}
      </ul>
    </main>
  </body>
</html>
`;
}

/** The guides are Markdown with `code` in it, and nothing else. */
function withCode(text: string): string {
  return text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replace(/`([^`]+)`/g, '<code>$1</code>');
}
