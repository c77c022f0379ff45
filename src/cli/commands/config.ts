/**
 * config: the configuration in effect, as lines of lvm.toml, or single keys of it, as lvmconfig does for lvm.conf.
 *
 *     orion-lvm config                     every key, with the file's values where it has some
 *     orion-lvm config --type default      what holds without any file
 *     orion-lvm config log/level devices   only these; a section may be named too
 *
 * Invariant: what it prints is an lvm.toml with the same meaning.
 */
import type { Command, CommandContext } from '../command.ts';
import { EXIT, type ExitCode } from '../messages.ts';

type Value = string | number | boolean | readonly Value[] | { readonly [key: string]: Value };
type Section = Readonly<Record<string, unknown>>;

function isValue(value: unknown): value is Value {
  if (Array.isArray(value)) return value.every(isItem);
  return ['string', 'number', 'boolean'].includes(typeof value);
}

/** Lists may hold tables: `exports = [{ volumes = ["vg0"] }]` is `[[exports]]`. */
function isItem(value: unknown): value is Value {
  return isValue(value) || (isSection(value) && Object.values(value).every(isValue));
}

function isSection(value: unknown): value is Section {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** TOML's basic strings are written as JSON's, but for the character DEL. */
function toml(value: Value): string {
  if (Array.isArray(value)) return `[${value.map(toml).join(', ')}]`;
  if (isSection(value)) return `{ ${valueLines(value).join(', ')} }`;
  if (typeof value === 'string') return JSON.stringify(value).replaceAll('\u007f', '\\u007f');
  return JSON.stringify(value);
}

/** "key = value" lines of a section's own keys; those that are not set are left out. */
function valueLines(section: Section): string[] {
  return Object.entries(section).flatMap(([key, value]) => (isValue(value) ? [`${key} = ${toml(value)}`] : []));
}

function everything(config: Section): string[] {
  const lines = valueLines(config);
  for (const [key, value] of Object.entries(config)) {
    if (isSection(value) && valueLines(value).length > 0) lines.push('', `[${key}]`, ...valueLines(value));
  }
  return lines;
}

/** Lines for "key", "section" or "section/key"; null if there is none. */
function named(config: Section, name: string): string[] | null {
  const [first = '', second] = name.split(/[/.]/, 2);
  const value = config[first];
  if (second === undefined) {
    if (isSection(value)) return [`[${first}]`, ...valueLines(value)];
    return isValue(value) ? [`${first} = ${toml(value)}`] : null;
  }
  const inner = isSection(value) ? value[second] : undefined;
  return isValue(inner) ? [`${second} = ${toml(inner)}`] : null;
}

async function run(context: CommandContext): Promise<ExitCode> {
  const { defaultConfig } = await import('../../daemon/config-schema.ts');
  const file = context.options.value('type') === 'default' ? null : context.toml;
  const config: Section = { ...(file?.config ?? defaultConfig()) };
  if (context.args.length === 0) {
    context.output.print(file === null ? '# No configuration file: defaults.' : `# ${file.path}`);
    for (const line of everything(config)) context.output.print(line);
    return EXIT.ok;
  }
  let exitCode: ExitCode = EXIT.ok;
  for (const name of context.args) {
    const lines = named(config, name);
    for (const line of lines ?? []) context.output.print(line);
    if (lines !== null) continue;
    context.output.error(`Configuration node ${name} not found`);
    exitCode = EXIT.failed;
  }
  return exitCode;
}

export const command: Command = {
  summary: 'Display configuration information',
  argumentsUsage: '[ KEY ... ]',
  options: [
    {
      long: 'type',
      argument: 'current|default',
      check: (value) => value === 'current' || value === 'default',
      description: 'The configuration in effect (the default), or what holds without a configuration file.',
    },
  ],
  run,
};
