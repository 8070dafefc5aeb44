#!/usr/bin/env node
// Before main and all that it imports is parsed: V8's young generation has grown by then, and stays.
import '../dist/bound-memory.js';

await import('../dist/main.js');
