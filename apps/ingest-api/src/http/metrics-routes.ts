import type { Database } from 'db-schema';
import { Router } from 'express';
import type { Kysely } from 'kysely';
import { collectDefaultMetrics, Registry } from 'prom-client';
import { IngestError } from '../errors.ts';
import { serviceFigures } from '../runs/service-figures.ts';
import { principalOf, requireScope } from './authenticate.ts';
import type { RoomCheck } from './room-check.ts';
import { serviceMetrics } from './service-metrics.ts';
import { sharedAnswer } from './shared-answer.ts';

/** With Node's own figures: memory, CPU, event loop lag. */
export function createRegistry(): Registry {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  return registry;
}

export interface MetricsRoutesOptions {
  readonly db: Kysely<Database>;
  readonly room: RoomCheck;
  readonly registry: Registry;
}

/** `/metrics` for Prometheus, which sends a token as any other client does. */
export function metricsRoutes({ db, room, registry }: MetricsRoutesOptions): Router {
  const metrics = serviceMetrics(registry);
  const router = Router();
  const scrape = sharedAnswer(async () => {
    metrics.set(await serviceFigures(db), await room.room());
    return registry.metrics();
  });
  router.get('/metrics', async (_req, res) => {
    requireScope(res, 'read');
    if (principalOf(res).models !== null) {
      throw new IngestError(
        'forbidden',
        'Metrics tell of every model; they need a token that is not bound to some of them.',
      );
    }
    const text = await scrape('');
    res.set('Cache-Control', 'no-store').type(registry.contentType).send(text);
  });
  return router;
}
