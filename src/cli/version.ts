/** The version of this checkout or package: package.json's, and how commands say it. */
import { readFileSync } from 'node:fs';
import type { Output } from './messages.ts';

function readVersion(): string {
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return /"version":\s*"([^"]+)"/.exec(text)?.[1] ?? 'unknown';
}

export const VERSION: string = readVersion();

export function printVersion(output: Output): void {
  output.print(`Orion LVM version: ${VERSION}`);
}
