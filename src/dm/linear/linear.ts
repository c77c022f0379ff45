/**
 * linear: a range of one device, as it is (kernel: Documentation/admin-guide/device-mapper/linear.rst).
 *
 *     <start> <length> linear <device> <offset>
 */
import type { TablePlace } from '../errors.ts';
import { legField } from '../params.ts';
import type { LinearParams } from '../table.ts';
import { deviceName, deviceWord, SECTOR_BYTES, type Target, type TargetContext, type TargetType } from '../target.ts';

function parse(params: unknown, place: TablePlace): LinearParams {
  return legField(params, place, '');
}

function create(params: LinearParams, context: TargetContext): Target {
  const device = context.device(params.device, 'device', params.offset, context.length);
  return {
    mapping: { kind: 'legs', chunkBytes: 0, legs: [{ device, offset: params.offset * SECTOR_BYTES }] },
    tableText: () => `${deviceWord(params.device)} ${params.offset}`,
    status: (legErrors) => ({ text: '', details: { device: deviceName(params.device), errors: legErrors(0) } }),
  };
}

export const linear: TargetType<LinearParams> = { name: 'linear', version: '1.4.0', parse, create };
