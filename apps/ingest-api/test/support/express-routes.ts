import type { Express } from 'express';

/** What Express keeps of a router: one layer for each `use`, `get`, `all` …, in order. */
interface Layer {
  readonly route?: { readonly path: string | string[]; readonly methods: Record<string, boolean> };
  readonly handle?: { readonly stack?: readonly Layer[] };
}

/** Every `METHOD /path` that the app has a route for; `ALL` for one that takes any method. */
export function routesOf(app: Express): string[] {
  return [...new Set(walk((app.router as unknown as { stack: readonly Layer[] }).stack))];
}

function* walk(layers: readonly Layer[]): Generator<string> {
  for (const { route, handle } of layers) {
    if (route === undefined) {
      yield* walk(handle?.stack ?? []);
      continue;
    }
    for (const path of [route.path].flat())
      for (const method of Object.keys(route.methods))
        yield `${method === '_all' ? 'ALL' : method.toUpperCase()} ${path}`;
  }
}
