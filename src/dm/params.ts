/**
 * Checks of target parameters: tables come as JSON from another process, so their shape is verified field by field.
 *
 * Invariants
 *  - Every refusal is a TableError that names the field and says what was expected and what was found.
 *  - Fields that a target doesn't know are refused: a parameter that is ignored would be a silent lie.
 */
import { TableError, type TablePlace } from './errors.ts';
import type { DeviceRef, LinearParams, Table } from './table.ts';

/** Sectors that a table may span, so that bytes stay below 2^53. */
export const MAX_SECTORS: number = 2 ** 44 - 1;

function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}

export function badField(place: TablePlace, field: string, expected: string, found: unknown): TableError {
  if (found === undefined) return new TableError('MISSING_FIELD', place, field, `expected ${expected}, found nothing`);
  return new TableError('BAD_FIELD', place, field, `expected ${expected}, found ${shown(found)}`);
}

/** An object that has only `keys`; `at` is its path, '' for the parameters themselves. */
export function objectField(
  value: unknown,
  place: TablePlace,
  at: string,
  keys: readonly string[],
): ReadonlyMap<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw badField(place, at === '' ? 'params' : at, 'an object', value);
  }
  const fields = new Map<string, unknown>(Object.entries(value));
  for (const key of fields.keys()) {
    if (keys.includes(key)) continue;
    const known = keys.length === 0 ? 'no parameters' : keys.join(', ');
    throw new TableError('UNKNOWN_FIELD', place, at === '' ? key : `${at}.${key}`, `expected ${known}`);
  }
  return fields;
}

/** An integer from `min` to `max`. */
export function integerField(value: unknown, place: TablePlace, field: string, min: number, max: number): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < min || value > max) {
    throw badField(place, field, `an integer from ${min} to ${max}`, value);
  }
  return value;
}

/** A text that is not empty. */
export function nameField(value: unknown, place: TablePlace, field: string): string {
  if (typeof value !== 'string' || value === '') throw badField(place, field, 'a device name', value);
  return value;
}

/** A device's name, or a layer; the layer's table is checked when it is loaded. */
export function deviceField(value: unknown, place: TablePlace, field: string): DeviceRef {
  if (typeof value !== 'object') return nameField(value, place, field);
  const layer = objectField(value, place, field, ['name', 'table']);
  const table = layer.get('table');
  if (!Array.isArray(table)) throw badField(place, `${field}.table`, 'a list of lines', table);
  return { name: nameField(layer.get('name'), place, `${field}.name`), table: table as Table };
}

/** A device and the sector on it where a leg begins; `at` is its path, '' for the parameters themselves. */
export function legField(value: unknown, place: TablePlace, at: string): LinearParams {
  const fields = objectField(value, place, at, ['device', 'offset']);
  const path = (key: string): string => (at === '' ? key : `${at}.${key}`);
  return {
    device: deviceField(fields.get('device'), place, path('device')),
    offset: integerField(fields.get('offset'), place, path('offset'), 0, MAX_SECTORS),
  };
}

/** Parameters of targets that have none: absent, null or an empty object. */
export function noParams(value: unknown, place: TablePlace): null {
  if (value !== undefined && value !== null) objectField(value, place, '', []);
  return null;
}
