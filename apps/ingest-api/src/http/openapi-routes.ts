import { Router } from 'express';
import { openApiDocument } from './openapi/document.ts';

export function openApiRoutes(): Router {
  const router = Router();
  const text = JSON.stringify(openApiDocument());
  router.get('/openapi.json', (_req, res) => {
    res.type('application/json').send(text);
  });
  return router;
}
