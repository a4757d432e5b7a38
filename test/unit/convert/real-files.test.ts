import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, it } from 'vitest'
import { type Conversion, convert, type Language } from '../../../src/convert/convert.js'
import { configFrom } from '../../../src/proxy/config/load.js'

/** Files that people run, with other names, hosts and addresses: how many lines each has, and those without a counterpart. */
const FILES: readonly (readonly [file: string, lines: number, missing: string])[] = [
  ['01-nginx.conf', 66, ''],
  [
    '02-nginx.conf',
    75,
    'add_header 86 87 88 89, alias 84, expires 85, gzip 23, gzip_comp_level 27, gzip_min_length 25, gzip_proxied 26, gzip_types 28, gzip_vary 24, location 83, try_files 99',
  ],
  ['03-nginx.conf', 64, 'ssl_stapling 46, ssl_stapling_verify 47'],
  ['04-nginx.conf', 33, ''],
  ['05-nginx.conf', 31, 'add_header 32, alias 30, expires 31, location 29'],
  [
    '06-nginx.conf',
    50,
    'add_header 30 35, location 28 33, root 29 34, sub_filter 68, sub_filter_once 67, sub_filter_types 66',
  ],
  [
    '07-nginx.conf',
    109,
    'access_log 148 153, add_header 111 121, alias 109 119, expires 110 120, gzip 22, gzip_comp_level 26, gzip_min_length 24, gzip_proxied 25, gzip_types 27, gzip_vary 23, location 108 118 146 151',
  ],
  ['08-nginx.conf', 45, 'location 58, root 59'],
  ['09-nginx.conf', 47, 'gzip 12, gzip_types 13, location 27, root 28'],
  ['10-nginx.conf', 93, 'error_page 68 92 118, location 121, return 122'],
  ['11-haproxy.cfg', 44, 'http-response return 30, option dontlog-normal 16'],
  [
    '12-haproxy.cfg',
    49,
    'compression 12 13 14 15 59, filter 48 58, http-response set-header 29 30, http-response set-var(res.nonce) 25',
  ],
  ['13-haproxy.cfg', 58, 'http-request set-header 40, lua-load 11'],
  ['14-haproxy.cfg', 30, ''],
  ['15-haproxy.cfg', 20, ''],
  ['16-haproxy.cfg', 44, ''],
  ['17-haproxy.cfg', 31, ''],
  ['18-sozu.toml', 15, ''],
  ['19-sozu.toml', 37, ''],
  ['20-sozu.toml', 31, ''],
]

const FOLDER = fileURLToPath(new URL('../../fixtures/convert/', import.meta.url))
const languageOf = (file: string) => /-(\w+)\./.exec(file)![1] as Language

const known = new Map<string, Conversion>()

function converted(file: string): Conversion {
  const conversion = known.get(file) ?? conversionOf(file)
  known.set(file, conversion)
  return conversion
}

function conversionOf(file: string): Conversion {
  const text = readFileSync(join(FOLDER, file), 'utf8')
  return convert(text, { file, language: languageOf(file), service: 'edge', included: () => [] })
}

/** As `gzip 12 13`: the first words of lines, and where they are. */
function missingOf({ remarks }: Conversion): string {
  const places = new Map<string, (number | string)[]>()
  for (const { line, outcome } of remarks) {
    const name = /^(?:(?:http-|tcp-|option)\S* )?\S+/.exec(line.text)?.[0] ?? ''
    if (outcome === 'missing') places.set(name, [...(places.get(name) ?? []), line.place])
  }
  return [...places]
    .map(([name, all]) => `${name} ${all.join(' ')}`)
    .sort()
    .join(', ')
}

it('the list has all files', () => {
  expect(FILES.map(([file]) => file)).toEqual(readdirSync(FOLDER).sort())
})

it.each(FILES)(
  '%s becomes a configuration of the proxy, and what is missing is named',
  (file, lines, missing) => {
    const conversion = converted(file)
    // Files that are not there.
    const { tls: _, errorPages: __, ...document } = conversion.document
    const listeners = (document.listeners as Record<string, unknown>[]).map(
      ({ tls: _, clientCa: __, ...each }) => each,
    )
    configFrom(JSON.parse(JSON.stringify({ ...document, listeners })))
    expect([conversion.remarks.length, missingOf(conversion)]).toEqual([lines, missing])
  },
)

it('the share of lines that the proxy has a counterpart for, or does not need', () => {
  const share = (language: string) => {
    const counts = FILES.map(([file]) => file)
      .filter(file => language === 'all' || languageOf(file) === language)
      .map(file => converted(file).counts)
    const missing = counts.reduce((sum, each) => sum + each.missing, 0)
    const all = counts.reduce((sum, { said, near, own }) => sum + said + near + own, missing)
    return [all, Math.floor((1_000 * (all - missing)) / all) / 10]
  }
  expect({
    nginx: share('nginx'),
    haproxy: share('haproxy'),
    sozu: share('sozu'),
    all: share('all'),
  }).toEqual({ nginx: [613, 90.5], haproxy: [276, 94.9], sozu: [83, 100], all: [972, 92.5] })
})

it('most lines without a counterpart are about compression and files, which the proxy leaves to servers', () => {
  const missing = FILES.flatMap(([file]) => converted(file).remarks).filter(
    ({ outcome }) => outcome === 'missing',
  )
  const isOfFiles =
    /does not compress|serves no files|its files need a server|its location has no counterpart|may be kept/
  // One is of an answer to a login.
  const notAsked = missing.filter(
    ({ why, line }) => isOfFiles.test(why) && !line.text.startsWith('return'),
  ).length
  const share = Math.floor((1_000 * (972 - missing.length)) / (972 - notAsked)) / 10
  expect([missing.length, notAsked, share]).toEqual([72, 53, 97.9])
})
