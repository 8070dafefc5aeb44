// In the browser a copy of the package, served under this name (src/http/page.ts).
export * from 'lit-html';
