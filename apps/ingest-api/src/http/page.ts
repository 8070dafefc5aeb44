import { fileURLToPath } from 'node:url';
import { type RequestHandler, Router } from 'express';

/** As TypeScript left them, or as the packages ship them: nothing is put together at run time. */
const PAGE = fileURLToPath(new URL('../../page/', import.meta.url));
const MODULES = fileURLToPath(new URL('../../dist/page/', import.meta.url));

const JAVASCRIPT = 'text/javascript; charset=utf-8';

const FILES: Readonly<Record<string, { readonly path: string; readonly type: string }>> = {
  '/': { path: `${PAGE}index.html`, type: 'text/html; charset=utf-8' },
  '/page/style.css': { path: `${PAGE}style.css`, type: 'text/css; charset=utf-8' },
  '/page/icon.svg': { path: `${PAGE}icon.svg`, type: 'image/svg+xml' },
  // Seen from the file that Node would take of each package, which is not the browser's.
  '/page/vendor/lit-html.js': packaged('lit-html', '../lit-html.js', JAVASCRIPT),
  '/page/vendor/uplot.js': packaged('uplot', 'uPlot.esm.js', JAVASCRIPT),
  '/page/vendor/uplot.css': packaged('uplot', 'uPlot.min.css', 'text/css; charset=utf-8'),
};

/** Every address of the page, as the routes have them. */
export const PAGE_ADDRESSES = [...Object.keys(FILES), '/page/:module'] as const;

/** pnpm keeps packages below a folder named .pnpm; and whoever has the checkout below a dot is not to be punished. */
const SENT_FROM_ANYWHERE = { dotfiles: 'allow' } as const;

/**
 * Scripts, styles and data from here only, nobody's frame around it. Without a style from the markup, so
 * that not even a name that was pushed could dress the page up.
 */
const CONTENT_SECURITY_POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self'",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

/** The status page: one document, its modules, and two libraries. It asks for a token by itself. */
export function pageRoutes(): Router {
  const router = Router();
  for (const [address, { path, type }] of Object.entries(FILES)) {
    router.get(address, secured, (_req, res) =>
      res.sendFile(path, { ...SENT_FROM_ANYWHERE, headers: { 'Content-Type': type } }),
    );
  }
  router.get('/page/:module', secured, (req, res, next) => {
    const { module } = req.params as { module: string };
    if (!/^[a-z-]+\.js$/.test(module)) return next();
    res.sendFile(`${MODULES}${module}`, SENT_FROM_ANYWHERE, (error) => {
      if (error !== undefined && !res.headersSent) next();
    });
  });
  return router;
}

const secured: RequestHandler = (_req, res, next) => {
  res.set({
    'Content-Security-Policy': CONTENT_SECURITY_POLICY,
    'X-Content-Type-Options': 'nosniff',
    'Referrer-Policy': 'no-referrer',
    'Cross-Origin-Opener-Policy': 'same-origin',
    'Cache-Control': 'no-cache',
  });
  next();
};

function packaged(name: string, file: string, type: string) {
  return { path: fileURLToPath(new URL(file, import.meta.resolve(name))), type };
}
