/**
 * Command line parsing with LVM2's rules, driven by one table of options per command (which also writes its help).
 *
 * Rules (getopt_long's, and LVM2's on top)
 *  - Long options may be cut to any unique prefix, and hyphens inside a long option's name don't count (--no-headings).
 *  - Values follow as "--units=m", "--units m", "-o name", "-oname"; short options may be bundled ("-av").
 *  - Options and arguments may be mixed; "--" ends the options.
 *  - Repeating an option that neither counts nor groups is an error. A repeated groupable option starts a new group,
 *    and so does --configreport: the -o, -O, -S after it belong to that report.
 *
 * Source: lvm(8), lvmreport(7), tools/lvmcmdline.c for the messages. commander has no abbreviations and no groups.
 */
import { CommandError, EXIT, type Output } from './messages.ts';

export interface OptionSpec {
  readonly long: string;
  /** Older names, which help does not show. */
  readonly synonyms?: readonly string[];
  /** One letter. */
  readonly short?: string;
  /** What the value is called in help; absent: the option takes none. */
  readonly argument?: string;
  /** May be given more than once, and counts (-v -v). */
  readonly countable?: boolean;
  /** May be given more than once; see the file's head. */
  readonly groupable?: boolean;
  /** Always starts a group (--configreport). */
  readonly startsGroup?: boolean;
  /** False: "Invalid argument for --x: value". May instead throw an Error whose message is printed before that. */
  readonly check?: (value: string) => boolean;
  readonly description: string;
}

/** The options of one group, in the order given. */
export type OptionGroup = ReadonlyMap<string, string>;

export class ParsedOptions {
  readonly #counts = new Map<string, number>();
  readonly #values = new Map<string, string>();
  readonly #groups: Map<string, string>[] = [];
  /** What is left when options are taken away. */
  readonly args: string[] = [];

  /** Notes one occurrence. False: it may not be repeated. */
  add(spec: OptionSpec, value: string): boolean {
    const count = this.#counts.get(spec.long) ?? 0;
    if (count > 0 && spec.countable !== true && spec.groupable !== true) return false;
    this.#counts.set(spec.long, count + 1);
    this.#values.set(spec.long, value);
    if (spec.groupable === true) this.#groupFor(spec).set(spec.long, value);
    return true;
  }

  /** Counts an option without a value at least `count` times, as if it had been typed. */
  imply(long: string, count: number): void {
    if (count > this.count(long)) this.#counts.set(long, count);
  }

  #groupFor(spec: OptionSpec): Map<string, string> {
    const current = this.#groups.at(-1);
    if (current !== undefined && !current.has(spec.long) && spec.startsGroup !== true) return current;
    const group = new Map<string, string>();
    this.#groups.push(group);
    return group;
  }

  has(long: string): boolean {
    return this.#counts.has(long);
  }
  count(long: string): number {
    return this.#counts.get(long) ?? 0;
  }
  /** The last value given. */
  value(long: string): string | undefined {
    return this.#values.get(long);
  }
  get groups(): readonly OptionGroup[] {
    return this.#groups;
  }
}

/** "--no-headings" is "--noheadings"; a value after "=" stays as it is. */
function withoutHyphens(arg: string): string {
  const equals = arg.indexOf('=');
  const name = equals < 0 ? arg : arg.slice(0, equals);
  return `--${name.slice(2).replaceAll('-', '')}${equals < 0 ? '' : arg.slice(equals)}`;
}

function namesOf({ long, synonyms = [] }: OptionSpec): readonly string[] {
  return [long, ...synonyms];
}

class Parser {
  readonly #command: string;
  readonly #specs: readonly OptionSpec[];
  readonly #argv: readonly string[];
  readonly #output: Output;
  readonly #parsed = new ParsedOptions();
  #next = 0;

  constructor(command: string, specs: readonly OptionSpec[], argv: readonly string[], output: Output) {
    this.#command = command;
    this.#specs = specs;
    this.#argv = argv;
    this.#output = output;
  }

  parse(): ParsedOptions {
    while (this.#next < this.#argv.length) {
      const arg = this.#argv[this.#next++] ?? '';
      if (arg === '--') {
        this.#parsed.args.push(...this.#argv.slice(this.#next));
        break;
      }
      if (arg.startsWith('--')) this.#long(withoutHyphens(arg).slice(2));
      else if (arg.startsWith('-') && arg !== '-') this.#bundle(arg.slice(1));
      else this.#parsed.args.push(arg);
    }
    return this.#parsed;
  }

  /** Says what getopt says (no indent), then fails. */
  #refuse(text: string): never {
    this.#output.plainError(`${this.#command}: ${text}`);
    throw new CommandError(EXIT.badUsage, ['Error during parsing of command line.']);
  }

  #long(arg: string): void {
    const equals = arg.indexOf('=');
    const name = equals < 0 ? arg : arg.slice(0, equals);
    const value = equals < 0 ? undefined : arg.slice(equals + 1);
    const spec = this.#findLong(name);
    if (spec.argument === undefined) {
      if (value !== undefined) this.#refuse(`option '--${spec.long}' doesn't allow an argument`);
      this.#note(spec, '');
      return;
    }
    const typed = namesOf(spec).find((long) => long.startsWith(name)) ?? spec.long;
    if (value === undefined && this.#next >= this.#argv.length)
      this.#refuse(`option '--${typed}' requires an argument`);
    this.#note(spec, value ?? this.#argv[this.#next++] ?? '', typed);
  }

  #findLong(name: string): OptionSpec {
    const exact = this.#specs.find((spec) => namesOf(spec).includes(name));
    if (exact !== undefined) return exact;
    const near = this.#specs.filter((spec) => namesOf(spec).some((long) => long.startsWith(name)));
    const [only] = near;
    if (only === undefined) this.#refuse(`unrecognized option '--${name}'`);
    if (near.length === 1) return only;
    const names = near.map((spec) => `'--${spec.long}'`).toSorted();
    return this.#refuse(`option '--${name}' is ambiguous; possibilities: ${names.join(' ')}`);
  }

  #bundle(letters: string): void {
    for (let i = 0; i < letters.length; i++) {
      const letter = letters[i] ?? '';
      const spec = this.#specs.find((candidate) => candidate.short === letter);
      if (spec === undefined) this.#refuse(`invalid option -- '${letter}'`);
      if (spec.argument === undefined) {
        this.#note(spec, '');
        continue;
      }
      const rest = letters.slice(i + 1);
      if (rest === '' && this.#next >= this.#argv.length) this.#refuse(`option requires an argument -- '${letter}'`);
      this.#note(spec, rest === '' ? (this.#argv[this.#next++] ?? '') : rest);
      return;
    }
  }

  /** `typed`: the name that was used, of several. */
  #note(spec: OptionSpec, value: string, typed = spec.long): void {
    if (!this.#parsed.add(spec, value)) {
      const short = spec.short === undefined ? '' : `-${spec.short}/`;
      const text = `Option ${short}--${spec.long} may not be repeated.`;
      throw new CommandError(EXIT.badUsage, [text, 'Error during parsing of command line.']);
    }
    if (spec.check === undefined) return;
    const lines: string[] = [];
    try {
      if (spec.check(value)) return;
    } catch (error) {
      if (!(error instanceof Error)) throw error;
      lines.push(error.message);
    }
    lines.push(`Invalid argument for --${typed}: ${value}`, 'Error during parsing of command line.');
    throw new CommandError(EXIT.badUsage, lines);
  }
}

/** Parses `argv` (without the command's name). Throws CommandError (3), after getopt's own message if it is one. */
export function parseOptions(
  command: string,
  specs: readonly OptionSpec[],
  argv: readonly string[],
  output: Output,
): ParsedOptions {
  return new Parser(command, specs, argv, output).parse();
}
