/**
 * Typed access to one section of a parsed text: takes the known keys out of it, and hands back the rest.
 *
 * Invariants
 *  - Of several nodes with the same key the first counts, as for LVM2; the others stay in the rest.
 *  - A required key that is missing, and a known key with a value of the wrong kind or outside its range, is a FormatError
 *    that names the object and the key. Nothing is guessed.
 *  - Each node is either taken or in the rest, never both.
 */
import { FormatError, type FormatErrorCode, type Where } from './errors.ts';
import type { ConfigAssignment, ConfigNode, ConfigScalar, ConfigSection, ConfigValue } from './metadata.ts';
import { scalarText } from './config-print.ts';
import { formatUuid, parseUuid } from './uuid.ts';

export const MAX_U32: number = 2 ** 32 - 1;

/** Inclusive bounds of an integer field. */
export interface Range {
  readonly min?: number;
  readonly max?: number;
}
export const U32: Range = { max: MAX_U32 };

export class Fields {
  readonly #nodes: readonly ConfigNode[];
  readonly #taken: boolean[];
  readonly #what: string;
  readonly where: Where;

  /** `what` names the object in errors: "vg0/lvol0 segment1". */
  constructor(nodes: readonly ConfigNode[], what: string, where: Where) {
    this.#nodes = nodes;
    this.#taken = nodes.map(() => false);
    this.#what = what;
    this.where = where;
  }

  /** The nodes that nobody took, in order. */
  rest(): readonly ConfigNode[] {
    return this.#nodes.filter((_node, index) => this.#taken[index] !== true);
  }

  /** Whether a node has one of these keys. */
  hasAny(keys: ReadonlySet<string>): boolean {
    return this.#nodes.some(({ key }) => keys.has(key));
  }

  /** Takes every section that is left. */
  takeSections(): readonly ConfigSection[] {
    const sections: ConfigSection[] = [];
    this.#nodes.forEach((node, index) => {
      if (node.node !== 'section' || this.#taken[index] === true) return;
      this.#taken[index] = true;
      sections.push(node);
    });
    return sections;
  }

  /** Takes the first section of all, if there is one. */
  takeFirstSection(): ConfigSection | undefined {
    const index = this.#nodes.findIndex((node) => node.node === 'section');
    const node = this.#nodes[index];
    if (node?.node !== 'section') return undefined;
    this.#taken[index] = true;
    return node;
  }

  section(key: string): ConfigSection | undefined {
    const node = this.#take(key, 'section');
    return node?.node === 'section' ? node : undefined;
  }

  /** Takes, in the text's order, the assignments whose keys are in `keys`: the first of each. */
  assignments(keys: ReadonlySet<string>): readonly ConfigAssignment[] {
    const seen = new Set<string>();
    const found: ConfigAssignment[] = [];
    this.#nodes.forEach((node, index) => {
      if (node.node !== 'value' || !keys.has(node.key) || seen.has(node.key)) return;
      seen.add(node.key);
      this.#taken[index] = true;
      found.push(node);
    });
    return found;
  }

  int(key: string, range: Range = {}): number {
    return this.optionalInt(key, range) ?? this.#missing(key);
  }

  optionalInt(key: string, range: Range = {}): number | undefined {
    const value = this.#value(key);
    if (value === undefined) return undefined;
    if (value.kind === 'float' && !value.text.includes('.')) throw this.bad(key, 'less than 2^53', value, 'TOO_LARGE');
    if (value.kind !== 'int') throw this.bad(key, 'an integer', value);
    const { min = 0, max = Number.MAX_SAFE_INTEGER } = range;
    if (value.value < min || value.value > max) throw this.bad(key, `${min} to ${max}`, value, 'OUT_OF_RANGE');
    return value.value;
  }

  string(key: string): string {
    return this.optionalString(key) ?? this.#missing(key);
  }

  optionalString(key: string): string | undefined {
    const value = this.#value(key);
    if (value === undefined) return undefined;
    // LVM2 reads a bare word as a string.
    if (value.kind !== 'string' && value.kind !== 'word') throw this.bad(key, 'a string', value);
    return value.value;
  }

  /** One of `words`, if the key is there with such a value; any other string leaves it in the rest. */
  optionalWord<Word extends string>(key: string, words: readonly Word[]): Word | undefined {
    const node = this.#first(key);
    if (node?.node !== 'value' || node.value.kind !== 'string') return undefined;
    const text = node.value.value;
    const found = words.find((word) => word === text);
    if (found !== undefined) this.#take(key, 'value');
    return found;
  }

  uuid(key: string): string {
    const text = this.string(key);
    const raw = parseUuid(text);
    if (raw === null)
      throw this.fail('BAD_FIELD', key, { expected: 'an id of 32 characters', actual: JSON.stringify(text) });
    return formatUuid(raw);
  }

  optionalUuid(key: string): string | undefined {
    return this.#first(key) === undefined ? undefined : this.uuid(key);
  }

  /** A list of strings; a lone string is a list of one. */
  optionalStrings(key: string): readonly string[] | undefined {
    const value = this.#value(key);
    if (value === undefined) return undefined;
    const items = value.kind === 'array' ? value.items : [value];
    return items.map((item) => {
      if (item.kind !== 'string' && item.kind !== 'word') throw this.bad(key, 'strings', value);
      return item.value;
    });
  }

  strings(key: string): readonly string[] {
    return this.optionalStrings(key) ?? this.#missing(key);
  }

  /** The items of a required array; a scalar is an array of one. */
  items(key: string): readonly ConfigScalar[] {
    const value = this.#value(key) ?? this.#missing(key);
    return value.kind === 'array' ? value.items : [value];
  }

  fail(
    code: FormatErrorCode,
    key: string,
    detail: { readonly problem?: string; readonly expected?: string | number; readonly actual?: string | number },
  ): FormatError {
    return new FormatError({ code, ...this.where, what: `${this.#what}: ${key}`, ...detail });
  }

  bad(key: string, expected: string, value: ConfigValue, code: FormatErrorCode = 'BAD_FIELD'): FormatError {
    const actual = value.kind === 'array' ? 'an array' : scalarText(value);
    return this.fail(code, key, { expected, actual });
  }

  #missing(key: string): never {
    throw this.fail('MISSING_FIELD', key, {});
  }

  #value(key: string): ConfigValue | undefined {
    const node = this.#take(key, 'value');
    return node?.node === 'value' ? node.value : undefined;
  }

  #first(key: string): ConfigNode | undefined {
    return this.#nodes.find((node) => node.key === key);
  }

  #take(key: string, kind: ConfigNode['node']): ConfigNode | undefined {
    const index = this.#nodes.findIndex((node) => node.key === key);
    const node = this.#nodes[index];
    if (node?.node !== kind) return undefined;
    this.#taken[index] = true;
    return node;
  }
}
