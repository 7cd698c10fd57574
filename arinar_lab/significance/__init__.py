"""Tests and spreads of plain numbers: arm → seed → value. No report is read here."""
