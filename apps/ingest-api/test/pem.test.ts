import { createPrivateKey } from 'node:crypto';
import { getCACertificates } from 'node:tls';
import { expect } from 'chai';
import { generate } from 'selfsigned';
import { certificatesFault, keyPairFault } from 'wire';

describe('PEM files', () => {
  const certs = { rsa: '', ec: '', other: '' };
  const keys = { rsa: '', pkcs1: '', ec: '', sec1: '', encrypted: '' };
  before(async () => {
    const make = (keyType: 'rsa' | 'ec') => generate([{ name: 'commonName', value: 'test' }], { keyType });
    const [rsa, ec, other] = await Promise.all([make('rsa'), make('ec'), make('rsa')]);
    Object.assign(certs, { rsa: rsa.cert, ec: ec.cert, other: other.cert });
    const pem = { format: 'pem' } as const;
    const rsaKey = createPrivateKey(rsa.private);
    Object.assign(keys, {
      rsa: rsa.private,
      ec: ec.private,
      pkcs1: rsaKey.export({ ...pem, type: 'pkcs1' }),
      sec1: createPrivateKey(ec.private).export({ ...pem, type: 'sec1' }),
      encrypted: rsaKey.export({ ...pem, type: 'pkcs8', cipher: 'aes-256-cbc', passphrase: 'secret' }),
    });
    for (const name of ['rsa', 'ec', 'other'] as const) certs[name] = `${certs[name].trim()}\n`;
  });

  it('are taken in every form in which OpenSSL reads certificates', () => {
    for (const pem of [
      certs.rsa,
      certs.rsa + certs.ec,
      certs.rsa.replaceAll('\n', '\r\n'),
      `\ufeff${certs.rsa}`,
      `Bag Attributes\n  friendlyName: a-b--c\n${certs.rsa}`,
      `Certificate:\n    Data:\n        Version: 3 (0x2)\n-- - --\n${certs.rsa}`,
      certs.rsa.replaceAll('CERTIFICATE', 'X509 CERTIFICATE'),
      getCACertificates('bundled').join('\n'),
    ])
      expect(certificatesFault(pem), pem.slice(0, 200)).to.equal(null);
  });

  it('are refused wherever a certificate is missing, cut or damaged', () => {
    const cut = certs.ec.slice(0, -40);
    for (const [pem, fault] of [
      ['', /^has no certificate/],
      ['text', /^has no certificate/],
      [keys.rsa, /^has no certificate/],
      [cut, /^has 1 certificates, of which 0 are whole$/],
      [certs.rsa + cut, /^has 2 certificates, of which 1 are whole$/],
      [cut + certs.rsa, /^has 2 certificates, of which 1 are whole$/],
      [certs.rsa.replace('MII', 'AAA'), /cannot be read, number 1 of 1/],
      [certs.rsa + certs.ec.replace('MII', 'AAA'), /cannot be read, number 2 of 2/],
    ] as const)
      expect(certificatesFault(pem), pem).to.match(fault);
  });

  it('are a pair only if the key is that of the first certificate', () => {
    for (const [cert, key, passphrase] of [
      [certs.rsa, keys.rsa],
      [certs.rsa, keys.pkcs1],
      [certs.ec, keys.ec],
      [certs.ec, keys.sec1],
      [certs.rsa + certs.ec, keys.rsa],
      [certs.rsa, keys.encrypted, 'secret'],
    ] as const)
      expect(keyPairFault(cert, key, passphrase), cert + key).to.equal(null);
    for (const [cert, key, passphrase] of [
      [certs.rsa, keys.ec],
      [certs.ec, keys.rsa],
      [certs.other, keys.rsa],
      [certs.ec + certs.rsa, keys.rsa],
      [certs.rsa, keys.encrypted],
      [certs.rsa, keys.encrypted, 'wrong'],
      ['', keys.rsa],
      [certs.rsa, ''],
      [keys.rsa, keys.rsa],
    ] as const)
      expect(keyPairFault(cert, key, passphrase), cert + key).to.match(/^are not a certificate and its key/);
  });
});
