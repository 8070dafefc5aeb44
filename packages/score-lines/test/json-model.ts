/**
 * What a JSON text says, exactly: numbers as they are written, equal keys seen. It is made from text that JSON.parse
 * has accepted, by another way than the scanner's, so that the one can check the other.
 */
export type JsonModel =
  | { readonly kind: 'string'; readonly text: string }
  | { readonly kind: 'number'; readonly source: string }
  | { readonly kind: 'word'; readonly source: string }
  | { readonly kind: 'array'; readonly items: readonly JsonModel[] }
  | { readonly kind: 'object'; readonly members: readonly (readonly [key: string, value: JsonModel])[] };

const TOKEN = /"(?:[^"\\]|\\.)*"|[{}[\]:,]|[^\s{}[\]:,"]+/g;

export function modelOf(jsonText: string): JsonModel {
  JSON.parse(jsonText);
  const tokens = jsonText.match(TOKEN) ?? [];
  let next = 0;
  const take = (): string => tokens[next++] ?? '';

  function readValue(): JsonModel {
    const token = take();
    if (token === '{') return { kind: 'object', members: readItems('}', readMember) };
    if (token === '[') return { kind: 'array', items: readItems(']', readValue) };
    if (token.startsWith('"')) return { kind: 'string', text: JSON.parse(token) };
    return /^[tfn]/.test(token) ? { kind: 'word', source: token } : { kind: 'number', source: token };
  }

  function readMember(): readonly [string, JsonModel] {
    const key = JSON.parse(take()) as string;
    take(); // the colon
    return [key, readValue()];
  }

  function readItems<Item>(close: string, readItem: () => Item): Item[] {
    const items: Item[] = [];
    if (tokens[next] === close) {
      next++;
      return items;
    }
    do items.push(readItem());
    while (take() === ',');
    return items;
  }

  return readValue();
}

export function depthOf(model: JsonModel): number {
  if (model.kind === 'array') return 1 + Math.max(0, ...model.items.map(depthOf));
  if (model.kind === 'object') return 1 + Math.max(0, ...model.members.map(([, value]) => depthOf(value)));
  return 0;
}

/** Every model in a model, itself first. */
export function allModels(model: JsonModel, found: JsonModel[] = []): JsonModel[] {
  found.push(model);
  if (model.kind === 'array') for (const item of model.items) allModels(item, found);
  if (model.kind === 'object') for (const [, value] of model.members) allModels(value, found);
  return found;
}

/** The text of a model in one spelling, to compare two; `spellNumber` says what makes numbers equal. */
export function spell(model: JsonModel, spellNumber: (source: string) => string): string {
  switch (model.kind) {
    case 'string':
      return JSON.stringify(model.text);
    case 'number':
      return spellNumber(model.source);
    case 'word':
      return model.source;
    case 'array':
      return `[${model.items.map((item) => spell(item, spellNumber)).join(',')}]`;
    case 'object': {
      const members = model.members.map(
        ([key, value]) => `${JSON.stringify(key)}:${spell(value, spellNumber)}`,
      );
      return `{${members.sort().join(',')}}`;
    }
  }
}
