import { fileURLToPath } from 'node:url';
import { type RequestHandler, Router } from 'express';

/**
 * Files as they are in the checkout, as TypeScript compiles them, or as the packages contain them: there is
 * no bundler.
 */
const PAGE = fileURLToPath(new URL('../../page/', import.meta.url));
const MODULES = fileURLToPath(new URL('../../dist/page/', import.meta.url));

const JAVASCRIPT = 'text/javascript; charset=utf-8';

const FILES: Readonly<Record<string, { readonly path: string; readonly type: string }>> = {
  '/': { path: `${PAGE}index.html`, type: 'text/html; charset=utf-8' },
  '/page/style.css': { path: `${PAGE}style.css`, type: 'text/css; charset=utf-8' },
  '/page/icon.svg': { path: `${PAGE}icon.svg`, type: 'image/svg+xml' },
  // Relative to the entry of each package for Node, which is another file than the browser's.
  '/page/vendor/lit-html.js': packaged('lit-html', '../lit-html.js', JAVASCRIPT),
  '/page/vendor/gates.js': packaged('wire', 'gates.js', JAVASCRIPT),
  '/page/vendor/uplot.js': packaged('uplot', 'uPlot.esm.js', JAVASCRIPT),
  '/page/vendor/uplot.css': packaged('uplot', 'uPlot.min.css', 'text/css; charset=utf-8'),
};

/** Every address of the page, in the form of Express. */
export const PAGE_ADDRESSES = [...Object.keys(FILES), '/page/:module'] as const;

/**
 * The path of a package contains the folder `.pnpm`, and that of the checkout may contain a folder with a
 * dot, too.
 */
const SEND_OPTIONS = { dotfiles: 'allow' } as const;

/**
 * Scripts, styles and data come from this service only, and no site may frame the page. Inline styles are
 * forbidden, too, so that a name that somebody pushed cannot change how the page looks.
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

/**
 * The status page: a document, its modules, and two libraries. Its files need no token; the page asks for
 * one.
 */
export function pageRoutes(): Router {
  const router = Router();
  for (const [address, { path, type }] of Object.entries(FILES)) {
    router.get(address, pageHeaders, (_req, res) =>
      res.sendFile(path, { ...SEND_OPTIONS, headers: { 'Content-Type': type } }),
    );
  }
  router.get('/page/:module', pageHeaders, (req, res, next) => {
    const { module } = req.params as { module: string };
    if (!/^[a-z-]+\.js$/.test(module)) return next();
    res.sendFile(`${MODULES}${module}`, SEND_OPTIONS, (error) => {
      if (error !== undefined && !res.headersSent) next();
    });
  });
  return router;
}

const pageHeaders: RequestHandler = (_req, res, next) => {
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
