/** docs/openapi.json, and whether answers are what it says. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fromJSONSchema } from 'zod';
import { CHECKOUT } from './shared.ts';

export interface Operation {
  readonly responses: Record<
    string,
    { readonly content?: Record<string, { readonly schema: { readonly $ref?: string } }> } | undefined
  >;
}
export interface Document {
  readonly paths: Record<string, Record<string, Operation>>;
  readonly components: { readonly schemas: Record<string, object> };
}

export async function documentOf(): Promise<Document> {
  return JSON.parse(await readFile(join(CHECKOUT, 'docs/openapi.json'), 'utf8')) as Document;
}

/** Throws unless `value` is what the document says of a schema. */
export function check({ components }: Document, name: string, value: unknown): void {
  const text = JSON.stringify({ ...components.schemas[name], $defs: components.schemas });
  const schema = fromJSONSchema(JSON.parse(text.replaceAll('#/components/schemas/', '#/$defs/')));
  const parsed = schema.safeParse(value);
  assert.ok(parsed.success, `${name}: ${JSON.stringify(value)}: ${parsed.error?.message}`);
}
