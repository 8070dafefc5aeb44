// In the browser gates.js of the package `wire`, served under this name (src/http/page.ts).
export { describeGate, describeLimit } from 'wire';
