/**
 * From the words of -o, -O and # to columns: which fields a report shows, sorts by, and may leave out.
 *
 * Invariants
 *  - Field names are matched without regard to case and underscores, with or without the report's own prefix.
 *  - "all" and "<prefix>all" stand for whole sections. A plain "all" covers every section that the report's fields or keys
 *    have touched, so it is expanded only after all names were read once.
 *  - Columns that are only sorted or selected by are hidden.
 *
 * Source: lvmreport(7), "-o help", and comparison with lvs 2.03.16.
 */
import type { FieldType, ReportField, SectionId } from './field.ts';
import { SECTIONS } from './field.ts';

/** "selected", "help" and "?", which every report has. */
export interface SpecialField {
  readonly id: string;
  readonly heading: string;
  readonly description: string;
  readonly section: 'special';
  readonly type: FieldType;
  readonly width: number;
}
export type AnyField = ReportField | SpecialField;

export const SPECIAL_FIELDS: readonly SpecialField[] = [
  {
    id: 'selected',
    heading: 'Selected',
    description: 'Set if item passes selection criteria.',
    section: 'special',
    type: 'number',
    width: 8,
  },
  { id: 'help', heading: 'Help', description: 'Show help.', section: 'special', type: 'number', width: 8 },
  { id: '?', heading: 'Help', description: 'Show help.', section: 'special', type: 'number', width: 8 },
];

export interface Column {
  readonly field: AnyField;
  /** Sorted or selected by, not shown. */
  readonly hidden: boolean;
  /** Hidden because every row of it is blank. */
  readonly compacted?: true;
}

export interface SortKey {
  /** Index in the columns. */
  readonly column: number;
  readonly descending: boolean;
}

/** A name that no field has. The message is LVM2's last line; `listing` is what it shows before. */
export class UnknownFieldError extends Error {
  override readonly name = 'UnknownFieldError';
}

function canonical(name: string): string {
  return name.replaceAll('_', '').toLowerCase();
}

/** The fields that a report can name, by their canonical names. */
export class FieldTable {
  readonly fields: readonly ReportField[];
  readonly #byName = new Map<string, ReportField>();

  constructor(fields: readonly ReportField[]) {
    this.fields = fields;
    for (const field of fields) this.#byName.set(canonical(field.id), field);
  }

  /** `prefix` is the report's own, "lv_": "size" is then lv_size. */
  find(name: string, prefix: string): AnyField | null {
    if (name === '') return null;
    const wanted = canonical(name);
    const short = canonical(prefix);
    const special = SPECIAL_FIELDS.find((field) => field.id === wanted || field.id === `${short}${wanted}`);
    return special ?? this.#byPosition(wanted, short + wanted);
  }

  /** A name and its prefixed form may both exist; the one listed first wins. */
  #byPosition(plain: string, prefixed: string): ReportField | null {
    const a = this.#byName.get(plain);
    const b = this.#byName.get(prefixed);
    if (a === undefined || b === undefined) return a ?? b ?? null;
    return this.fields.indexOf(a) <= this.fields.indexOf(b) ? a : b;
  }

  has(section: SectionId): boolean {
    return this.fields.some((field) => field.section === section);
  }

  inSections(sections: ReadonlySet<SectionId>): readonly ReportField[] {
    return this.fields.filter((field) => sections.has(field.section));
  }
}

/** Sections that "<prefix>all" names; null if it is no such name. */
function sectionsNamed(
  table: FieldTable,
  name: string,
  prefix: string,
  touched: ReadonlySet<SectionId>,
): Set<SectionId> | null {
  const own = name.toLowerCase() === 'all';
  const wanted = own ? canonical(prefix) : canonical(name).replace(/all$/, '');
  if (!own && !canonical(name).endsWith('all')) return null;
  const found = new Set<SectionId>(own ? touched : []);
  for (const section of SECTIONS)
    if (canonical(section.prefix) === wanted && table.has(section.id)) found.add(section.id);
  return found.size === 0 ? null : found;
}

function words(list: string): readonly string[] {
  const items = list.replace(/^,+/, '').split(/,+/);
  // A comma at the end is no consecutive comma: LVM2 looks for a field after it.
  return list === '' ? [] : items;
}

/** What a report shows and touches. */
export class ColumnPlan {
  readonly #table: FieldTable;
  readonly #prefix: string;
  readonly sections: Set<SectionId>;
  readonly columns: Column[] = [];
  readonly keys: SortKey[] = [];
  /** Keys named twice: told, and used once. */
  readonly duplicateKeys: string[] = [];

  constructor(table: FieldTable, base: SectionId, options: string, keys: string) {
    this.#table = table;
    this.#prefix = SECTIONS.find((section) => section.id === base)?.prefix ?? '';
    this.sections = new Set([base]);
    for (const name of words(options)) this.#touch(name);
    for (const key of words(keys)) this.#touchKey(key);
    for (const name of words(options)) this.#addNamed(name);
    for (const key of words(keys)) this.#addKey(key);
  }

  get prefix(): string {
    return this.#prefix;
  }

  /** True if "help" or "?" is among the fields. */
  get wantsHelp(): boolean {
    return this.columns.some(({ field }) => field.section === 'special' && field.id !== 'selected');
  }

  find(name: string): AnyField | null {
    return this.#table.find(name, this.#prefix);
  }

  /** The index of a field's column, which is added as a hidden one if it is not there. */
  use(field: AnyField): number {
    const at = this.columns.findIndex((column) => column.field === field);
    if (at >= 0) return at;
    if (field.section !== 'special') this.sections.add(field.section);
    return this.columns.push({ field, hidden: true }) - 1;
  }

  #touch(name: string): void {
    const field = this.find(name);
    const touched = field === null ? sectionsNamed(this.#table, name, this.#prefix, this.sections) : null;
    if (field === null && touched === null) throw new UnknownFieldError(`Unrecognised field: ${name}`);
    if (field !== null && field.section !== 'special') this.sections.add(field.section);
    for (const section of touched ?? []) this.sections.add(section);
  }

  #addNamed(name: string): void {
    const field = this.find(name);
    if (field !== null) {
      this.columns.push({ field, hidden: false });
      return;
    }
    const sections = sectionsNamed(this.#table, name, this.#prefix, this.sections) ?? new Set<SectionId>();
    for (const member of this.#table.inSections(sections)) this.columns.push({ field: member, hidden: false });
  }

  #keyField(key: string): AnyField {
    const field = this.find(key.replace(/^[+-]/, ''));
    if (field === null) throw new UnknownFieldError(`dm_report: Unrecognised field: ${key}`);
    return field;
  }

  #touchKey(key: string): void {
    const field = this.#keyField(key);
    if (field.section !== 'special') this.sections.add(field.section);
  }

  #addKey(key: string): void {
    const field = this.#keyField(key);
    const column = this.use(field);
    if (this.keys.some((known) => known.column === column)) this.duplicateKeys.push(field.id);
    else this.keys.push({ column, descending: key.startsWith('-') });
  }
}

/** Removes the field called `name` from a list of names: as written, or as one with and the other without the prefix. */
function without(list: readonly string[], name: string, prefix: string): string[] {
  const bare = prefix.replace(/_$/, '');
  const strip = (text: string): string => (text.startsWith(bare) ? text.slice(bare.length).replace(/^_/, '') : text);
  const at = list.findLastIndex((known) => known === name || strip(known) === strip(name));
  return at < 0 ? [...list] : list.toSpliced(at, 1);
}

/** Commas in a row count as one; nothing but commas is one empty name. */
function listItems(list: string): readonly string[] {
  const items = list.split(',').filter((name) => name !== '');
  return items.length === 0 && list !== '' ? [''] : items;
}

export interface OptionLists {
  readonly options: string;
  /** Fields to leave out when blank everywhere; undefined: none was named. */
  readonly compact?: string;
}

/** Applies one -o after another to a report's default fields. Null: an empty list, which is refused. */
export function applyOptionLists(defaults: string, given: readonly string[], prefix: string): OptionLists | null {
  let names: string[] = defaults.split(',');
  let compact: string | undefined;
  for (const list of given) {
    if (list === '') return null;
    const items = listItems(list.replace(/^[+#-]/, ''));
    if (list.startsWith('+')) names.push(...items);
    else if (list.startsWith('-')) for (const item of items) names = without(names, item, prefix);
    else if (list.startsWith('#')) compact = list.slice(1);
    else names = [...items];
  }
  return { options: names.join(','), ...(compact === undefined ? {} : { compact }) };
}
