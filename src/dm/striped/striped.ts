/**
 * striped: chunks dealt to several devices in turn (kernel: Documentation/admin-guide/device-mapper/striped.rst).
 *
 *     <start> <length> striped <stripes> <chunk size> {<device> <offset>}...
 *
 * Invariants
 *  - Any number of stripes from 1 and any chunk size from one sector: neither need be a power of two.
 *  - The length is a multiple of stripes times chunk size, as the kernel demands: there is no partial chunk.
 */
import { TableError, type TablePlace } from '../errors.ts';
import { badField, integerField, legField, objectField } from '../params.ts';
import type { LinearParams, StripedParams } from '../table.ts';
import {
  deviceName,
  deviceWord,
  type Leg,
  SECTOR_BYTES,
  type Target,
  type TargetContext,
  type TargetType,
} from '../target.ts';

/** The kernel keeps the chunk size in 32 bits. */
const MAX_CHUNK_SECTORS = 2 ** 32 - 1;

function parse(params: unknown, place: TablePlace): StripedParams {
  const fields = objectField(params, place, '', ['chunkSize', 'stripes']);
  const list = fields.get('stripes');
  if (!Array.isArray(list) || list.length === 0) throw badField(place, 'stripes', 'a list of stripes', list);
  const stripes = list.map((item: unknown, i): LinearParams => legField(item, place, `stripes[${i}]`));
  return { chunkSize: integerField(fields.get('chunkSize'), place, 'chunkSize', 1, MAX_CHUNK_SECTORS), stripes };
}

/** Sectors on each stripe; the kernel's two conditions on the target's length, in its order. */
function stripeWidth(params: StripedParams, context: TargetContext): number {
  const count = params.stripes.length;
  if (context.length % count !== 0) {
    const detail = `length ${context.length} is not divisible by the number of stripes, ${count}`;
    throw new TableError('BAD_LENGTH', context.place, 'length', detail);
  }
  const width = context.length / count;
  if (width % params.chunkSize !== 0) {
    const detail = `length ${context.length} over ${count} stripes is not divisible by the chunk size, ${params.chunkSize}`;
    throw new TableError('BAD_LENGTH', context.place, 'length', detail);
  }
  return width;
}

function create(params: StripedParams, context: TargetContext): Target {
  const width = stripeWidth(params, context);
  const legs = params.stripes.map((stripe, i): Leg => {
    const device = context.device(stripe.device, `stripes[${i}].device`, stripe.offset, width);
    return { device, offset: stripe.offset * SECTOR_BYTES };
  });
  const places = params.stripes.map((stripe) => ` ${deviceWord(stripe.device)} ${stripe.offset}`).join('');
  const names = params.stripes.map((stripe) => ` ${deviceWord(stripe.device)}`).join('');
  return {
    // A single stripe has no borders: its chunks lie side by side.
    mapping: { kind: 'legs', chunkBytes: legs.length === 1 ? 0 : params.chunkSize * SECTOR_BYTES, legs },
    tableText: () => `${legs.length} ${params.chunkSize}${places}`,
    // The kernel's form: the number of devices, their names, one group of letters, A for alive and D after errors.
    status: (legErrors) => {
      const stripes = params.stripes.map((stripe, i) => ({ device: deviceName(stripe.device), errors: legErrors(i) }));
      const letters = stripes.map((stripe) => (stripe.errors === 0 ? 'A' : 'D')).join('');
      return { text: `${legs.length}${names} 1 ${letters}`, details: { chunkSize: params.chunkSize, stripes } };
    },
  };
}

export const striped: TargetType<StripedParams> = { name: 'striped', version: '1.6.0', parse, create };
