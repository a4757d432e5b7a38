import { Command as CommanderCommand } from 'commander'

/** A command of the program, or the program itself. */
export class Command extends CommanderCommand {
  override createCommand(name?: string): Command {
    return new Command(name)
  }

  /** Adds a paragraph to the end of the help. */
  notes(text: string): this {
    return this.addHelpText('after', `\n${text}`)
  }

  /** Adds command lines to the end of the help. */
  examples(...lines: readonly string[]): this {
    return this.notes(['Examples:', ...lines.map(line => `  $ ${line}`)].join('\n'))
  }

  /** Adds the option `--json`. */
  json(): this {
    return this.option('--json', 'print the answer as JSON')
  }
}
