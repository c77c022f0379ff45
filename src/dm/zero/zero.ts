/**
 * zero: reads give zeros, writes vanish (kernel: Documentation/admin-guide/device-mapper/zero.rst).
 *
 *     <start> <length> zero
 */
import { noParams } from '../params.ts';
import type { Target, TargetType } from '../target.ts';

function create(): Target {
  return { mapping: { kind: 'zero' }, tableText: () => '', status: () => ({ text: '', details: {} }) };
}

export const zero: TargetType<null> = { name: 'zero', version: '1.1.0', parse: noParams, create };
