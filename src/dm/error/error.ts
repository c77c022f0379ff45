/**
 * error: every read and write fails with EIO. Stands where the bytes are missing (a partial VG) or must not be reached.
 *
 *     <start> <length> error
 */
import { noParams } from '../params.ts';
import type { Target, TargetType } from '../target.ts';

function create(): Target {
  return { mapping: { kind: 'error' }, tableText: () => '', status: () => ({ text: '', details: {} }) };
}

export const error: TargetType<null> = { name: 'error', version: '1.5.0', parse: noParams, create };
