// Loaded with --import before the uploader: after CLOCK_JUMPS_AFTER_MS its wall clock jumps by CLOCK_JUMP_MS, as one
// does that a time server or an administrator corrects.
const jumpMs = Number(process.env.CLOCK_JUMP_MS);
const jumpsAfterMs = Number(process.env.CLOCK_JUMPS_AFTER_MS);

const RealDate = Date;
const now = () => RealDate.now() + (performance.now() > jumpsAfterMs ? jumpMs : 0);

globalThis.Date = new Proxy(RealDate, {
  construct: (target, parts) => Reflect.construct(target, parts.length === 0 ? [now()] : parts),
  get: (target, name) => (name === 'now' ? now : Reflect.get(target, name)),
});
