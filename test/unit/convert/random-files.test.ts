import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, it } from 'vitest'
import { convert, type Language } from '../../../src/convert/convert.js'
import { answersOf } from '../../convert-support/answers.js'
import { haproxyFiles } from '../../convert-support/haproxy-files.js'
import { nginxFiles } from '../../convert-support/nginx-files.js'
import fc from '../../lanes/generated.js'
import { issue } from '../../processes/certificate.js'

const home = mkdtempSync(join(tmpdir(), 'convert-'))
const { cert, key } = issue(home, 'edge', ['*.test'])
writeFileSync(join(home, 'edge.pem'), readFileSync(cert, 'utf8') + readFileSync(key, 'utf8'))
afterAll(() => rmSync(home, { recursive: true }))

const PORTS: Readonly<Record<string, string>> = { port: '8080', second: '8081', tls: '8443' }
const SERVERS = /@(?:one|two|three|judge)\b/g

/** A file with ports and addresses in place of their names. */
const filled = (text: string) =>
  text
    .replaceAll('@home', home)
    .replaceAll(/@(port|second|tls)\b/g, (_, name: string) => PORTS[name]!)
    .replaceAll(SERVERS, name => `127.0.0.1:${8000 + name.length}`)

it.each<[Language, fc.Arbitrary<string>]>([
  ['haproxy', haproxyFiles],
  ['nginx', nginxFiles],
])('the proxy takes what is made of random files of %s', (language, files) => {
  fc.assert(
    fc.property(files, text => {
      const options = { file: join(home, language), language, service: 'edge', included: () => [] }
      try {
        const conversion = convert(filled(text), options)
        // There are no such pages. `answersOf` reads the whole configuration.
        const document = { ...conversion.document, errorPages: {} }
        expect(answersOf({ ...conversion, document })('/')).toBeDefined()
      } catch (error) {
        if (!/no listener is left/.test(String(error))) throw error
      }
    }),
    { numRuns: 30 },
  )
})
