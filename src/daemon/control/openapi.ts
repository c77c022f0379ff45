/** The document that describes the control socket: docs/openapi.json, read when somebody asks for it. */
import { readFile } from 'node:fs/promises';

const DOCUMENT = new URL('../../../docs/openapi.json', import.meta.url);

export function openApiText(): Promise<string> {
  return readFile(DOCUMENT, 'utf8');
}
