// In the browser a copy of the package, served under this name (src/http/page-routes.ts).
export * from 'lit-html';
