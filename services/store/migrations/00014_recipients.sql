-- +goose Up
-- To whom the secrets of the appliance are encrypted that has a certificate (an age X25519 recipient); empty as long as it has
-- not said. What is revoked gets nothing more.
ALTER TABLE site_certificates ADD COLUMN recipient TEXT NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE site_certificates DROP COLUMN recipient;
