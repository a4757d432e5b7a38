import protobuf from 'protobufjs'
import { describe, expect, it } from 'vitest'
import { moduleOf } from '../../../tools/proto/module.mjs'

function generated(...body: string[]): string {
  const { root } = protobuf.parse(`syntax = "proto3"; package fdbroker.test; ${body.join(' ')}`)
  root.resolveAll()
  return moduleOf(root, 'test.proto')
}

describe('the code of a .proto file', () => {
  it('fails to generate where a field is of a kind that has no code', () => {
    for (const field of [
      'int64 a = 1;',
      'sfixed64 a = 1;',
      'float a = 1;',
      'repeated uint32 a = 1;',
      'map<string, uint32> a = 1;',
      'map<uint32, string> a = 1;',
    ])
      expect(() => generated(`message M { ${field} }`), field).toThrow(
        '.fdbroker.test.M.a: a field of this kind',
      )
    expect(() => generated('service S {}')).toThrow('.fdbroker.test.S is not supported')
  })

  it('names a message beside another one also where that has one of the same name within', () => {
    const code = generated('message A {} message B { message A {} fdbroker.test.A outer = 1; A inner = 2; }')
    expect(code).toContain('message.outer = test.A.decode(')
    expect(code).toContain('message.inner = test.B.A.decode(')
  })
})
