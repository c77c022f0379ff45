/**
 * -S: selection criteria parsed into a tree, and rows held against it.
 *
 *     or   := and { ("||" | "#") and }
 *     and  := item { ("&&" | ",") item }
 *     item := "!" "(" or ")"  |  "(" or ")"  |  field comparison value
 *
 * Invariants
 *  - A value ends at a space or a logical operator unless it is quoted by ' or ".
 *  - Fields compared are columns of the report, hidden ones if they are not shown: they may change the report's type.
 *  - Nothing orders an undefined value: >, >=, <, <= are false for it on either side.
 *
 * Source: lvmreport(7) "SELECTION", `-S help`, and comparison with lvs 2.03.16.
 */
import { readUnits } from '../units.ts';
import { type Cell, compareText, UNDEFINED } from './cell.ts';
import type { AnyField, ColumnPlan } from './columns.ts';
import type { ReservedName } from './field.ts';
import { compileRegex } from '../../lvm/dm-regex.ts';
import { parseTimeRange, type TimeRange } from './time.ts';

/** What was shown to the user before the message: the field list, or the help on operators. */
export type SelectionHelp = 'fields' | 'operators' | null;

/** The criteria can't be understood. The lines are LVM2's, last to be printed last. */
export class SelectionError extends Error {
  override readonly name = 'SelectionError';
  readonly lines: readonly string[];
  readonly help: SelectionHelp;
  constructor(lines: readonly string[], help: SelectionHelp = null) {
    super(lines.join('\n'));
    this.lines = lines;
    this.help = help;
  }
}

const COMPARISONS = ['=~', '!~', '=', '!=', '>=', '>', '<=', '<', 'since', 'after', 'until', 'before'] as const;
type Comparison = (typeof COMPARISONS)[number];
const TIME_WORDS: Readonly<Record<string, Comparison>> = { since: '>=', after: '>', until: '<=', before: '<' };

interface ListOperand {
  /** Sorted. */
  readonly items: readonly string[];
  /** [ ]: the whole list; { }: a subset. */
  readonly whole: boolean;
  readonly all: boolean;
}
type Operand =
  | { readonly kind: 'number'; readonly value: number }
  | { readonly kind: 'string'; readonly value: string }
  | { readonly kind: 'time'; readonly range: TimeRange }
  | { readonly kind: 'list'; readonly list: ListOperand }
  | { readonly kind: 'regex'; readonly regex: RegExp };

type Node =
  | { readonly kind: 'or'; readonly nodes: readonly Node[] }
  | { readonly kind: 'and'; readonly nodes: readonly Node[] }
  | { readonly kind: 'not'; readonly node: Node }
  | { readonly kind: 'compare'; readonly column: number; readonly op: Comparison; readonly operand: Operand };

/** Every number field knows these names; they stand for "undefined". */
const UNDEFINED_NAMES: ReservedName = { names: ['-1', 'unknown', 'undefined', 'undef'], value: null };

function reservedNames(field: AnyField): readonly ReservedName[] {
  if (field.section === 'special') return [];
  const own = [...(field.reserved ?? [])];
  if (field.type === 'binary') {
    const words = field.words ?? [];
    own.push({ names: [...words, 'yes'], value: 1 }, { names: [...words, 'no'], value: 0 });
  }
  if (field.type === 'number' || field.type === 'binary') own.unshift(UNDEFINED_NAMES);
  return own;
}

/** A quote without its end: each kind of value says so in its own way. */
class UnendedQuote extends Error {}

class SelectionParser {
  readonly #text: string;
  readonly #plan: ColumnPlan;
  readonly #now: number;
  #at = 0;

  constructor(text: string, plan: ColumnPlan, now: number) {
    this.#text = text;
    this.#plan = plan;
    this.#now = now;
  }

  parse(): Node {
    const node = this.#or();
    this.#skipSpace();
    if (this.#at < this.#text.length) throw this.#syntax(['Expecting logical operator'], this.#at);
    return node;
  }

  #rest(): string {
    return this.#text.slice(this.#at);
  }
  #skipSpace(): void {
    while (/\s/.test(this.#text[this.#at] ?? '')) this.#at++;
  }
  /** Takes one of `words` if it comes next, after any space. */
  #take(...words: readonly string[]): string | null {
    const from = this.#at;
    this.#skipSpace();
    const found = words.find((word) => this.#text.startsWith(word, this.#at));
    if (found === undefined) {
      this.#at = from;
      return null;
    }
    this.#at += found.length;
    return found;
  }
  #syntax(lines: readonly string[], at: number, help: SelectionHelp = null): SelectionError {
    const where = `Selection syntax error at '${this.#text.slice(at)}'.`;
    return new SelectionError([...lines, where, "Use 'help' for selection to get more help."], help);
  }

  #or(): Node {
    const nodes = [this.#and()];
    while (this.#take('||', '#') !== null) nodes.push(this.#and());
    return nodes.length === 1 && nodes[0] !== undefined ? nodes[0] : { kind: 'or', nodes };
  }

  #and(): Node {
    const nodes = [this.#item()];
    while (this.#take('&&', ',') !== null) nodes.push(this.#item());
    return nodes.length === 1 && nodes[0] !== undefined ? nodes[0] : { kind: 'and', nodes };
  }

  #item(): Node {
    const negated = this.#take('!') !== null;
    if (this.#take('(') === null) {
      if (negated) throw new SelectionError([`Syntax error: left parenthesis expected at '${this.#rest()}'`]);
      this.#skipSpace();
      return this.#comparison();
    }
    const inner = this.#or();
    if (this.#take(')') === null) {
      throw new SelectionError([`Syntax error: right parenthesis expected at '${this.#rest()}'`]);
    }
    return negated ? { kind: 'not', node: inner } : inner;
  }

  #comparison(): Node {
    const start = this.#at;
    const name = /^[A-Za-z0-9_-]+/.exec(this.#rest())?.[0];
    if (name === undefined) throw this.#syntax(['Expecting field name'], start);
    const field = this.#plan.find(name);
    if (field === null) throw this.#syntax([`Unrecognised selection field: ${name}`], start, 'fields');
    if (field.section === 'special' && field.id !== 'selected') {
      throw this.#syntax([`Selection field is uncomparable: ${name}.`], start, 'fields');
    }
    this.#at += name.length;
    const op = this.#operator(start);
    this.#checkOperator(field, op, start);
    const operand = op === '=~' || op === '!~' ? this.#regex(field, start) : this.#operand(field, start);
    return { kind: 'compare', column: this.#plan.use(field), op: TIME_WORDS[op] ?? op, operand };
  }

  #operator(start: number): Comparison {
    const after = this.#rest();
    const word = this.#take(...COMPARISONS);
    const op = COMPARISONS.find((known) => known === word);
    if (op === undefined) throw this.#syntax([`Unrecognised comparison operator: ${after}`], start, 'operators');
    return op;
  }

  #checkOperator(field: AnyField, op: Comparison, start: number): void {
    const ordered = ['number', 'binary', 'size', 'percent', 'time'].includes(field.type);
    const about = this.#text.slice(start);
    if (/^[<>]/.test(op) && !ordered) {
      const message = `Operator can be used only with number, size, time or percent fields: ${about}`;
      throw this.#syntax([message], start, 'operators');
    }
    if (op in TIME_WORDS && field.type !== 'time') {
      throw this.#syntax([`Operator can be used only with time fields: ${about}`], start, 'operators');
    }
  }

  /** Up to `quote`, or to a space or one of `stops` outside quotes. */
  #word(stops: readonly string[], closing: string | null): string {
    const from = this.#at;
    if (closing !== null) {
      const end = this.#text.indexOf(closing, from);
      if (end < 0) throw new UnendedQuote();
      this.#at = end + 1;
      return this.#text.slice(from, end);
    }
    while (this.#at < this.#text.length && this.#text[this.#at] !== ' ') {
      const here = this.#rest().trimStart();
      if (stops.some((stop) => here.startsWith(stop))) break;
      this.#at++;
    }
    return this.#text.slice(from, this.#at);
  }

  #quotedOr(stops: readonly string[]): string {
    const quote = this.#text[this.#at];
    if (quote !== '"' && quote !== "'") return this.#word(stops, null);
    this.#at++;
    return this.#word(stops, quote);
  }

  #regex(field: AnyField, start: number): Operand {
    this.#skipSpace();
    if (this.#at >= this.#text.length) {
      throw this.#syntax([`Regular expression expected for selection field ${field.id}`], start);
    }
    const closing = { '(': ')', '{': '}', '[': ']', '"': '"', "'": "'" }[this.#text[this.#at] ?? ''] ?? null;
    if (closing !== null) this.#at++;
    const pattern = this.#value('regex', field, start, () => this.#word(ENDS, closing));
    if (field.type !== 'string') {
      throw new SelectionError([`dm_report: incompatible comparison type for selection field ${field.id}`]);
    }
    const regex = compileRegex(pattern);
    if (regex === null) {
      throw new SelectionError([`dm_report: failed to create regex matcher for selection field ${field.id}`]);
    }
    return { kind: 'regex', regex };
  }

  #operand(field: AnyField, start: number): Operand {
    this.#skipSpace();
    const reserved = this.#reserved(field);
    if (reserved !== null) return reserved;
    if (field.type === 'string') {
      return { kind: 'string', value: this.#value('string', field, start, () => this.#quotedOr(ENDS)) };
    }
    if (field.type === 'string-list') return { kind: 'list', list: this.#list(field, start) };
    if (field.type === 'time') return { kind: 'time', range: this.#time(field, start) };
    return { kind: 'number', value: this.#number(field, start) };
  }

  #value(kind: string, field: AnyField, start: number, read: () => string): string {
    try {
      return read();
    } catch (error) {
      if (!(error instanceof UnendedQuote)) throw error;
      const lines = ['Missing end quote.', `Failed to parse ${kind} value for selection field ${field.id}.`];
      throw this.#syntax(lines, start);
    }
  }

  /** A name that stands for a value of this field. */
  #reserved(field: AnyField): Operand | null {
    const from = this.#at;
    const quote = this.#text[from];
    if ((quote === '"' || quote === "'") && !this.#text.includes(quote, from + 1)) return null;
    const word = this.#quotedOr(ENDS);
    const found = reservedNames(field).find((reserved) => reserved.names.includes(word));
    if (found !== undefined) {
      const value = found.value ?? (field.type === 'string' ? '' : UNDEFINED);
      return typeof value === 'string' ? { kind: 'string', value } : { kind: 'number', value };
    }
    this.#at = from;
    return null;
  }

  #number(field: AnyField, start: number): number {
    const digits = /^(?:\d+\.?\d*|\.\d*)/.exec(this.#rest())?.[0];
    if (digits === undefined) {
      throw this.#syntax([`Failed to parse numeric value for selection field ${field.id}.`], start);
    }
    this.#at += digits.length;
    const value = Number(digits === '.' ? 0 : digits);
    if (this.#text[this.#at] === '%') {
      if (field.type !== 'percent') {
        const wanted = field.type === 'size' ? 'size' : 'numeric';
        const message = `Found percent value but ${wanted} value expected for selection field ${field.id}.`;
        throw this.#syntax([message], start);
      }
      this.#at++;
      return this.#percent(field, value, digits);
    }
    const units = readUnits(this.#rest());
    if (units !== null && field.type !== 'size') {
      const wanted = field.type === 'percent' ? 'percent' : 'numeric';
      const message = `Found size unit specifier but ${wanted} value expected for selection field ${field.id}.`;
      throw this.#syntax([message], start);
    }
    if (field.type === 'percent') return this.#percent(field, value, digits);
    if (field.type !== 'size') return Math.trunc(value);
    this.#at += units?.length ?? 0;
    return (value * (units?.factor ?? 1024 ** 2)) / 512;
  }

  #percent(field: AnyField, value: number, digits: string): number {
    if (value <= 100) return value;
    throw new SelectionError([`Field selection value ${digits} out of supported range for field ${field.id}.`]);
  }

  #time(field: AnyField, start: number): TimeRange {
    const absolute = /^@(\d+)/.exec(this.#rest());
    if (absolute !== null) {
      this.#at += absolute[0].length;
      const seconds = Number(absolute[1]);
      return { from: seconds, to: null };
    }
    const text = this.#value('time', field, start, () => this.#quotedOr(ENDS));
    const range = parseTimeRange(text, this.#now);
    if ('range' in range) return range.range;
    throw this.#syntax([...range.problems, `Failed to parse time value for selection field ${field.id}.`], start);
  }

  #list(field: AnyField, start: number): ListOperand {
    const open = this.#take('[', '{');
    const item = (ends: readonly string[]): string =>
      this.#value('string list', field, start, () => this.#quotedOr(ends));
    if (open === null) return { items: [item(ENDS)], whole: true, all: false };
    const closing = open === '[' ? ']' : '}';
    const items: string[] = [];
    let joined: 'and' | 'or' | null = null;
    for (;;) {
      if (this.#at >= this.#text.length) {
        throw this.#listError(`Missing list end for selection field ${field.id}`, field, start);
      }
      this.#skipSpace();
      items.push(item(LIST_ENDS));
      const operator = this.#take(']', '}', '&&', ',', '||', '#');
      if (operator === closing) break;
      if (operator === null) throw this.#listError('Invalid operator in selection list.', field, start);
      if (operator === ']' || operator === '}') {
        throw this.#listError(`List ended with incorrect character, expecting '${closing}'.`, field, start);
      }
      const kind = operator === '&&' || operator === ',' ? 'and' : 'or';
      if (joined !== null && joined !== kind) {
        throw this.#listError('Only one type of logical operator allowed in selection list at a time.', field, start);
      }
      joined = kind;
    }
    // A single item: [x] is the whole list, {x} any of it.
    const all = joined === null ? open === '[' : joined === 'and';
    return { items: items.toSorted(compareText), whole: open === '[', all };
  }

  #listError(message: string, field: AnyField, start: number): SelectionError {
    return this.#syntax([message, `Failed to parse string list value for selection field ${field.id}.`], start);
  }
}

/** What ends an unquoted value, besides a space; and one in a list. */
const ENDS = ['&&', ',', '||', '#', ')'];
const LIST_ENDS = ['&&', ',', '||', '#', ']', '}'];

function matchesList(values: readonly string[], list: ListOperand): boolean {
  if (values.length === 0) {
    if (list.all) return list.items.length === 1 && list.items[0] === '';
    return list.items.includes('');
  }
  if (!list.all) return list.items.some((item) => values.includes(item));
  if (!list.whole) return list.items.every((item) => values.includes(item));
  return values.length === list.items.length && values.every((value, index) => value === list.items[index]);
}

/** "auto" and "unmanaged" are numbers inside, and neither more nor less than others. */
function isNamedNumber(field: AnyField, value: number): boolean {
  if (value === UNDEFINED) return true;
  return field.section !== 'special' && (field.reserved ?? []).some((reserved) => reserved.value === value);
}

function compareNumbers(value: number, op: Comparison, operand: number, unordered: boolean): boolean {
  if (op === '=') return value === operand;
  if (op === '!=') return value !== operand;
  if (unordered) return false;
  if (op === '>') return value > operand;
  if (op === '>=') return value >= operand;
  return op === '<' ? value < operand : value <= operand;
}

/** A range is one value as wide as what was named: "2016" is the whole year. */
function compareTime(value: number, op: Comparison, range: TimeRange): boolean {
  const { from } = range;
  const to = range.to ?? from;
  if (op === '=' || op === '!=') return (value >= from && value <= to) === (op === '=');
  if (op === '>') return value > to;
  if (op === '>=') return value >= from;
  return op === '<' ? value < from : value <= to;
}

function compareCell(cell: Cell, op: Comparison, operand: Operand, field: AnyField): boolean {
  const { key } = cell;
  if (operand.kind === 'regex') return operand.regex.test(String(key)) === (op === '=~');
  if (operand.kind === 'list') return matchesList(Array.isArray(key) ? key : [], operand.list) === (op === '=');
  if (operand.kind === 'string') return (key === operand.value) === (op === '=');
  if (typeof key !== 'number') return false;
  if (operand.kind === 'time') return compareTime(key, op, operand.range);
  if (field.type === 'percent' && key === UNDEFINED) return false;
  const unordered = isNamedNumber(field, key) || isNamedNumber(field, operand.value);
  return compareNumbers(key, op, operand.value, unordered);
}

/** Parsed criteria. */
export class Selection {
  readonly #root: Node | null;
  readonly #plan: ColumnPlan;

  /** Adds the columns that it compares to the plan. `now` is in Unix seconds. Throws SelectionError. */
  constructor(text: string, plan: ColumnPlan, now: number) {
    this.#plan = plan;
    this.#root = text === '' || text.toLowerCase() === 'all' ? null : new SelectionParser(text, plan, now).parse();
  }

  matches(row: readonly Cell[]): boolean {
    return this.#root === null || this.#holds(this.#root, row);
  }

  #holds(node: Node, row: readonly Cell[]): boolean {
    if (node.kind === 'or') return node.nodes.some((inner) => this.#holds(inner, row));
    if (node.kind === 'and') return node.nodes.every((inner) => this.#holds(inner, row));
    if (node.kind === 'not') return !this.#holds(node.node, row);
    const cell = row[node.column];
    const field = this.#plan.columns[node.column]?.field;
    return cell !== undefined && field !== undefined && compareCell(cell, node.op, node.operand, field);
  }
}
