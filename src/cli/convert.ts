import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Argument, Option } from 'commander'
import { requireAs } from '../base/lazy.js'
import type * as Converter from '../convert/convert.js'
import { FdbError } from '../errors.js'
import type { Command } from './command.js'
import { plain, print, writeStderr } from './output.js'

const LANGUAGES = ['nginx', 'haproxy', 'sozu'] as const satisfies readonly Converter.Language[]

interface ConvertFlags {
  readonly from?: Converter.Language
  readonly service: string
  readonly json?: true
}

export function addConvert(program: Command): void {
  program
    .command('convert')
    .description('translate a configuration of nginx, HAProxy or sozu into one of fd-broker proxy')
    .addArgument(new Argument('<file>', 'the configuration; nginx: with the files that it includes'))
    .addOption(
      new Option('--from <server>', 'the server that the file is for (default: by name and text)').choices(
        LANGUAGES,
      ),
    )
    .option('--service <name>', 'name of the new service', 'edge')
    .json()
    .notes(
      'The configuration goes to stdout. Comments at its begin name the lines that have no counterpart, or a difference.\nGuards without a counterpart close their routes (403). No file and no service is changed.',
    )
    .examples(
      'fd-broker convert /etc/nginx/nginx.conf > edge.yaml && fd-broker proxy --check --config edge.yaml',
      'fd-broker convert haproxy.cfg --from haproxy --service edge',
    )
    .action(run)
}

function run(file: string, { from, service, json }: ConvertFlags): void {
  const text = textOf(file)
  const script = join(import.meta.dirname, 'convert.cjs')
  const { convert, includedBelow, languageOf } = requireAs(script)(script) as typeof Converter
  const language = from ?? languageOf(file, text)
  if (language === null)
    throw new FdbError(
      'ERR_FDB_OPTION',
      `${file}: it is not clear which server it is for: add --from ${LANGUAGES.join('|')}`,
    )
  const { document, yaml, counts, remarks } = convert(text, {
    file,
    language,
    service,
    included: includedBelow(file),
  })
  print(json, { document, counts, remarks: remarks.filter(each => each.outcome !== 'said') }, yaml)
  const lines = counts.said + counts.near + counts.own + counts.missing
  writeStderr(
    `${plain(file)}: ${lines} lines: ${counts.said} said, ${counts.near} with a difference, ${counts.own} not needed, ${counts.missing} without a counterpart`,
  )
}

function textOf(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error)
    throw new FdbError('ERR_FDB_CONFIG', `${file} cannot be read (${why})`, { cause: error })
  }
}
