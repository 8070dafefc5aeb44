import type { Part } from './part-result.ts';

export const FORMS = ['smoke', 'short', 'full'] as const;
export type Form = (typeof FORMS)[number];

/** One command of a form; `SVG` among its arguments stands for the file of the chart. */
export interface Step {
  readonly part: Part;
  readonly script: string;
  readonly args: readonly string[];
}

/** All but our own load without its checks. */
const SHORT_CONTENDERS = 'ours,serverCopy,psqlCopy,copyIntoKey,multiRowInserts';
const SORTED_CONTENDERS = 'ours,serverCopy,copyIntoKey';

/** The PUT that also commits a row, and tusd in one request, are left to the full form. */
const SHORT_UPLOADERS = 'ours,uploader,plainPut,stockTus,tusd';

/** Five minutes; three quarters of an hour; and so little that it only shows that everything still runs. */
export const STEPS: Readonly<Record<Form, readonly Step[]>> = {
  short: [
    step('load', `load.ts --rows 5000000 --rounds 2 --only ${SHORT_CONTENDERS}`),
    step('load', 'load.ts --rows 5000000 --rounds 1 --order sorted --only ours,serverCopy'),
    step('upload', `upload.ts --shapes 1x1GB,30x10MB,300x10KB --rounds 2 --contenders ${SHORT_UPLOADERS}`),
    step('path', 'whole-path.ts --rows 5000000 --beside-rows 1000000'),
    step('growth', 'growth.ts --sizes 0.3,1 --rounds 1 --svg SVG'),
  ],
  full: [
    step('load', 'load.ts --rows 30000000 --rounds 3'),
    step('load', `load.ts --rows 30000000 --rounds 1 --order sorted --only ${SORTED_CONTENDERS}`),
    step('upload', 'upload.ts --shapes 1x4.5GB,100x10MB --rounds 3'),
    step('upload', 'upload.ts --shapes 10000x10KB --rounds 1'),
    step('path', 'whole-path.ts --rows 120000000 --beside-rows 10000000'),
    step('growth', 'growth.ts --sizes 1,5,30,120 --skip-c-over 30 --svg SVG'),
  ],
  smoke: [
    step('load', 'load.ts --rows 5000 --rounds 1'),
    step('upload', 'upload.ts --shapes 2x100KB --rounds 1 --contenders ours,plainPut,recordedPut,stockTus'),
    step('path', 'whole-path.ts --rows 5000 --beside-rows 5000'),
    step('growth', 'growth.ts --sizes 0.002,0.005 --rounds 1 --svg SVG'),
  ],
};

function step(part: Part, command: string): Step {
  const [script = '', ...args] = command.split(' ');
  return { part, script, args };
}
